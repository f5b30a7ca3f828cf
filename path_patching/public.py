"""What can be imported from `path_patching` itself."""

from path_patching.bootstrap import Estimate, mean, share
from path_patching.circuits.circuit import Circuit, Link, full_circuit, late_half
from path_patching.circuits.circuit_file import read_circuit
from path_patching.circuits.links import link_effects
from path_patching.circuits.overlap import overlap
from path_patching.circuits.papers_shape import in_papers_shape
from path_patching.circuits.random_circuits import random_circuit
from path_patching.circuits.search import find_circuit
from path_patching.circuits.validation.completeness import completeness
from path_patching.circuits.validation.faithfulness import faithfulness
from path_patching.circuits.validation.matched import matched
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.minimality import minimality
from path_patching.engine import Engine, Request, Sentences
from path_patching.engine_choice import make_engine
from path_patching.errors import UserError
from path_patching.gpt2.model import Model
from path_patching.gpt2.tensor_cache import load_model
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.neurons import neuron_effects, read_neurons
from path_patching.paths import Node, PathSet, PathSetError, union
from path_patching.sweeps import Metric, effect, effects_of, effects_on, strongest
from path_patching.unembedding import logit_lens

__all__ = [  # noqa: RUF022 - in the order in which they are needed
    # A model and its sentences
    "Model",
    "Sentences",
    "load_model",
    "load_tokenizer",
    # Which paths
    "Node",
    "PathSet",
    "union",
    # What the model answers with them patched
    "Engine",
    "Request",
    "make_engine",
    # How much they matter
    "Metric",
    "effect",
    "effects_of",
    "effects_on",
    "strongest",
    # Numbers with their intervals
    "Estimate",
    "mean",
    "share",
    # Circuits
    "Circuit",
    "Link",
    "find_circuit",
    "full_circuit",
    "in_papers_shape",
    "late_half",
    "link_effects",
    "overlap",
    "random_circuit",
    "read_circuit",
    # Is it one?
    "Scale",
    "completeness",
    "faithfulness",
    "matched",
    "minimality",
    # What nodes and neurons write
    "logit_lens",
    "neuron_effects",
    "read_neurons",
    # What goes wrong
    "PathSetError",
    "UserError",
]
