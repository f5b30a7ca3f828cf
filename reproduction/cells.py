"""What each cell of an experiment makes, so that half a run is not published as the whole.

In an editor's interactive window cells are run one by one; one may be forgotten, or ended half-way. A cell is known by
its question. It was run if the run has a number or an artifact of its pattern, or says that it was left out, and the
cell that made it came to its end. Cells that make nothing of their own are not listed: later cells need them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

CELLS: Mapping[str, Mapping[str, str]] = {
    "circuit_discovery": {
        "Which sentences?": "dataset.pt",
        "Does the model compute greater-than?": "clean/probability_difference",
        "And what does it predict for each YY?": "probs.pt",
        "Which circuit is followed?": "circuit/size",
        "Which nodes act on the logits directly?": "ipp_logits.pt",
        "Which nodes act through the late MLPs?": "ipp_mlp*.pt",
        "What do the circuit's most telling heads look at?": "attn_patterns_all.pt",
        "What do heads and MLPs say of the end year by themselves?": "logit_lens/*",
        "How much does the late half achieve alone, with everything else on 01 data?": "late_half/*",
        "Where do the heads get their queries from at END, their keys and values at YY?": "attn_q.pt",
        "And the early MLPs at YY that the heads' values come from?": "results_mlp*.pt",
        "How much does the full circuit achieve, down to the embeddings?": "full_circuit/*",
        "How much does each of its links matter?": "circuit.json",
    },
    "big_ds_experiments": {
        "How well does each compute greater-than, and what share is that of the clean run?": "clean/*",
        "What does the late half lose with its heads' queries and keys?": "late_half/queries_and_keys/share_lost",
        "What share of the clean probability difference is lost with each MLP's direct effect, and with its indirect "
        "one?": "mlps/*/share_of_clean",
        "What do they predict for each YY?": "clean_probs.pt",
    },
    "neuron_investigations": {
        "Which sentences, and which MLP?": "neuron_dataset.pt",
        "Which of its neurons act on the logits directly?": "order.pt",
        "Do they add up to the effect of the whole MLP?": "neurons/count",
        "What does each of the strongest write to the year tokens?": "t10-logitlens.pt",
        "What does each of them do to the year logits?": "t10-direct_effects.pt",
        "And when the ten strongest are patched together?": "t10-t10patched.pt",
    },
    "sequence_generalization": {
        "Which circuit?": "circuit/nodes_at_end",
        "Does the model do each task?": "task_0/prompt",
        "Which nodes act on the logits directly?": "task_0/sweeps/logits/*",
        "Does the circuit do four of them?": "task_0/late_half/*",
        "What reaches m7, and do m7 and two heads make up for it?": "task_2/late_half_with_m7/*",
    },
    "pca_experiments": {
        "Whose activations?": "looked_at/nodes",
        "What do they look like in two dimensions?": "pca.pt",
        "What does each edit cost?": "pca_ablation.pt",
    },
    "random_circuit_ablation": {
        "What does each recover alone, with everything else on 01 data?": "random_circuits.pt",
        "Where does the circuit fall among them?": "random_circuits/recover_less",
    },
    "random_years": {
        "Which end years does the model predict?": "next_year/probability",
        "And which tokens are the likeliest?": "likeliest_tokens/probability",
    },
    "topk_years": {
        "Before XX2: how much of the probability of the 100 likeliest tokens is on XX1 and later "
        "centuries?": "top100_centuries.pt",
        "At END: how much of the probability of the 5 likeliest tokens is on years from YY on, and how many of them "
        "are?": "top5_years.pt",
    },
    "circuit_validation": {
        "Does the circuit alone do what the model does, and can the model do it without the circuit?": "faithfulness/*",
        "Is it the same with other sentences?": "seeds/*",
        "Do random circuits of its shape do less?": "random/*",
        "Is every node and every link of it needed?": "minimality/*",
        "Is nothing left out that takes over when nodes are removed?": "completeness/*",
        "Does it depend on the counterfactual?": "counterfactuals/*",
        "How good is the best circuit of each size?": "sizes/*",
        "Is it found again?": "stability/*",
        "Does a stronger patch do more?": "strength/*",
        "Is it the circuit of greater-than alone?": "specificity/*",
        "Do its nodes add up?": "interactions/*",
    },
}


@dataclass(frozen=True)
class Halves:
    """What cells made that did not come to their end, by key or name."""

    of_this_cell: set[str] = field(default_factory=set)
    """What the cell that is running has made so far, broken or not."""
    broken: set[str] = field(default_factory=set)

    def cell_ended(self, whole: bool) -> None:
        """What the cell made is broken if it did not come to its end; if it was before, it is mended otherwise."""
        (self.broken.difference_update if whole else self.broken.update)(self.of_this_cell)
        self.of_this_cell.clear()

    def without(self, made: Iterable[str]) -> list[str]:
        """What of `made` is not broken."""
        return [name for name in made if name in self.of_this_cell or name not in self.broken]


def cells_not_run(cells: Mapping[str, str], made: Iterable[str], settings: Mapping[str, object]) -> list[str]:
    """The questions of the cells that have nothing among the keys and artifacts `made` or left out.

    If the settings have `only`, the cells of the tests that it does not name are not needed.
    """
    made, only = [*made], settings.get("only")
    asked = {
        question: pattern
        for question, pattern in cells.items()
        if not isinstance(only, list | tuple) or pattern.partition("/")[0] in only
    }
    return [question for question, pattern in asked.items() if not any(fnmatchcase(each, pattern) for each in made)]
