"""Which neurons of MLP 10 compute greater-than, and what do they write? The paper's look into single neurons.

python neuron_investigations.py [--model gpt2|standin|NAME|PATH] [--layer 8] [--help]

The files of a layer other than m10 (in a model with fewer layers: other than the last but one) go to a subfolder, `m8`.
"""

# %% What is asked, of which model? In an interactive window, change the settings here.

from reproduction.command_line import read_settings

from reproduction.settings import LENS, NeuronSettings, chosen_layer

settings = read_settings(__doc__, NeuronSettings(n=490))

import torch

from path_patching.bootstrap import share
from path_patching.neurons import neuron_effects, read_neurons
from path_patching.paths import Node, PathSet
from path_patching.sweeps import changes
from reproduction.evaluations import Evaluations
from reproduction.run import open_run
from utils import greater_than, start_experiment

STRONGEST = 10  # neurons that are patched together


# %% Which sentences, and which MLP?
experiment = start_experiment(settings)
run = open_run("neuron_investigations", experiment)
dataset, engine = experiment.dataset, experiment.engine
start_yy, END = dataset.years_YY, dataset.end
layer = chosen_layer(experiment.model, settings.layer)
mlp = Node.mlp(layer, END)
run.note("mlp/name", mlp.name, "mlp")
run.save("neuron_dataset.pt", dataset.as_artifact(), kind="sentences")
evaluations = Evaluations(run, dataset.as_table())

# %% Which of its neurons act on the logits directly? Each is patched alone, on the path neuron → logits.
neurons = read_neurons(engine, layer)
by_sentence = neuron_effects(neurons, lambda rows: greater_than(start_yy[rows]))  # (M, N)
effects = by_sentence.mean(1)
order = effects.abs().argsort(descending=True, stable=True)
run.save("neuron_effects.pt", effects, kind="neuron_effects")
run.save("order.pt", order, kind="ranking", by="neuron_effects.pt")
strongest = order[:STRONGEST].tolist()
ranking = {Node.neuron(layer, neuron, END).name: effects[neuron].item() for neuron in strongest}
run.note("neurons/strongest", ranking, f"strongest neurons of {mlp.name}", kind="ranking")

# %% Do they add up to the effect of the whole MLP? Only a model without a softmax would do so exactly.
whole = changes(engine, PathSet.at(Node.logits(END)).through(mlp), experiment.metric)
summed, of_strongest = by_sentence.sum(0), by_sentence[strongest].sum(0)
run.note("neurons/count", len(neurons), "neurons")
evaluations.note_mean(mlp.name, "direct_effect", whole, f"direct effect of {mlp.name}")
evaluations.note_mean("neurons", "direct_effects_summed", summed, "direct effects of its neurons, summed")
part = share(of_strongest, summed, settings.seed, evaluations.clusters)
run.note("neurons/strongest/share_of_sum", part, f"share of that sum in the strongest {STRONGEST}")

# %% What does each of the strongest write to the year tokens? Its activation times what its output weights unembed to.
lens = neurons.logit_lens(order[:LENS].tolist()).float()  # (neurons, N, 100)
run.save("t10-logitlens.pt", lens, kind="neuron_lens", rows_ranked_in="order.pt")


# %% What does each of them do to the year logits? Clean minus patched, relative to year 00. One more, as published.
def lost_without(patched: list[int]) -> torch.Tensor:
    """What the year logits, relative to year 00's, lose when these neurons are patched together: (N, 100)."""
    lost = neurons.year_logits() - neurons.year_logits(patched)
    return lost - lost[:, :1]


alone = torch.stack([lost_without([neuron]) for neuron in order[: STRONGEST + 1].tolist()])
run.save("t10-direct_effects.pt", alone, kind="neuron_logits_lost", rows_ranked_in="order.pt")

# %% And when the ten strongest are patched together?
together = lost_without(strongest)
run.save("t10-t10patched.pt", together, kind="logits_lost_together")
words = "mean |year logit| lost, strongest neurons patched together"
evaluations.note_mean("neurons/strongest/together", "logits_lost", together.abs().mean(1), words)
summed = alone[:STRONGEST].sum(0)
words = "the same, patched alone and summed"
evaluations.note_mean("neurons/strongest/alone", "logits_lost", summed.abs().mean(1), words)

# %% Everything ran: publish it.
evaluations.save()
run.publish()
