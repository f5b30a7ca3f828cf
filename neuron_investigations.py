"""Which neurons of MLP 10 compute greater-than, and what do they write? The paper's look into single neurons.

python neuron_investigations.py [--model gpt2|standin|PATH] [--layer 8] [--help]

The files of another layer than m10 (or, in a model of fewer layers, the last but one) go to a subfolder, `m8`.
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
from dataclasses import dataclass
from pathlib import Path

import torch

from path_patching.bootstrap import mean, share
from path_patching.gpt2.model import Model
from path_patching.neurons import neuron_effects, read_neurons
from path_patching.paths import Node, PathSet
from path_patching.sweeps import changes
from reproduction.settings import Settings, chosen_layer, flag, layer_folder, read_settings
from utils import greater_than, open_run, start_experiment

STRONGEST, LENS = 10, 200  # neurons patched together; neurons whose logit lens is kept


@dataclass(frozen=True)
class NeuronSettings(Settings):
    """With the MLP whose neurons are looked at."""

    layer: int | None = flag(None, "layer of the MLP; 10, or the last but one of fewer layers, by default", int)

    def artifact_folder(self) -> Path:
        """Each layer but the default one has a folder of its own."""
        return layer_folder(super().artifact_folder(), self.layer)

    def check_fits(self, model: Model) -> None:
        """Raise `UserError` for a layer that the model does not have."""
        chosen_layer(model, self.layer)


settings = read_settings(__doc__, NeuronSettings(n=490))

# %% Which sentences, and which MLP?
experiment = start_experiment(settings)
run = open_run("neuron_investigations", experiment)
dataset, engine = experiment.dataset, experiment.engine
yy, END = dataset.years_YY, dataset.end
layer = chosen_layer(experiment.model, settings.layer)
mlp = Node.mlp(layer, END)
run.note("mlp", mlp.name)
run.save("neuron_dataset.pt", dataset.as_artifact())

# %% Which of its neurons act on the logits directly? Each is patched alone, on the path neuron → logits.
neurons = read_neurons(engine, layer)
by_sentence = neuron_effects(neurons, lambda rows: greater_than(yy[rows]))  # (M, N)
effects = by_sentence.mean(1)
order = effects.abs().argsort(descending=True, stable=True)
run.save("neuron_effects.pt", effects)
run.save("order.pt", order)
names = {neuron: Node.neuron(layer, neuron, END).name for neuron in order.tolist()}
strongest = order[:STRONGEST].tolist()
run.note(f"strongest neurons of {mlp.name}", {names[neuron]: effects[neuron].item() for neuron in strongest})

# %% Do they add up to the effect of the whole MLP? Only a model without a softmax would do so exactly.
whole = changes(engine, PathSet.at(Node.logits(END)).through(mlp), experiment.metric)
summed, of_strongest = by_sentence.sum(0), by_sentence[strongest].sum(0)
run.note("neurons", len(neurons))
run.note(f"direct effect of {mlp.name}", mean(whole, settings.seed))
run.note("direct effects of its neurons, summed", mean(summed, settings.seed))
run.note(f"share of that sum in the strongest {STRONGEST}", share(of_strongest, summed, settings.seed))

# %% What does each of the strongest write to the year tokens? Its activation times what its output weights unembed to.
run.save("t10-logitlens.pt", neurons.logit_lens(order[:LENS].tolist()).float())


# %% What does each of them do to the year logits? Clean minus patched, relative to year 00. One more, as published.
def lost_without(patched: list[int]) -> torch.Tensor:
    """What year logits, relative to year 00's, lose when these neurons are patched together: (N, 100)."""
    lost = neurons.year_logits() - neurons.year_logits(patched)
    return lost - lost[:, :1]


alone = torch.stack([lost_without([neuron]) for neuron in order[: STRONGEST + 1].tolist()])
run.save("t10-direct_effects.pt", alone)

# %% And when the ten strongest are patched together?
together = lost_without(strongest)
run.save("t10-t10patched.pt", together)
run.note("mean |year logit| lost, strongest neurons patched together", mean(together.abs().mean(1), settings.seed))
run.note("the same, patched alone and summed", mean(alone[:STRONGEST].sum(0).abs().mean(1), settings.seed))

# %% Everything ran: publish it.
run.publish()
