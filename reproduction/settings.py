"""The settings of a run: each field is a flag of the scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from path_patching.defaults import ENGINES, FOLLOWED_FROM, LEAST_GB, MOST_GB, STABILITY_THRESHOLDS, THRESHOLDS
from path_patching.errors import UserError, shortened
from path_patching.files import ROOT, named_path
from path_patching.gpt2.names import A_MODEL, named

if TYPE_CHECKING:
    from path_patching.gpt2.model import Model

KINDS: Mapping[object, tuple[str, tuple[type, ...]]] = {  # of settings, by the function that reads their text
    bool: ("True or False", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a text", (str, Path)),
    named_path: ("a folder", (str, Path)),
}

MOST_SENTENCES, MOST_CIRCUITS = 10_000_000, 100_000
FLOAT64 = 8  # bytes
ANSWERS_BYTES = 100 * FLOAT64  # the year tokens' probabilities
SENTENCE_BYTES = 1000  # a sentence and its twin, as text and tokens, and its measurements
LENS = 200  # neurons whose logit lens is kept
EDITS = 50  # of an activation, with their controls


def flag(
    default: Any,
    help_text: str,
    parse: Callable[[str], Any] = str,
    choices: tuple[str, ...] | None = None,
    several: bool = False,
) -> Any:
    """A settings field that is also a command-line flag: a switch if the default is a boolean, a tuple if `several`."""
    return field(default=default, metadata={"help": help_text, "parse": parse, "choices": choices, "several": several})


def _check_types(settings: Settings | PlotSettings) -> None:
    """Raise `UserError` for a field of another type, as `n="97"` in a notebook; None is for its own default."""
    for each in fields(settings):
        value, is_switch = getattr(settings, each.name), isinstance(each.default, bool)
        words, kinds = KINDS[bool if is_switch else each.metadata["parse"]]
        if value is None and each.default is None:
            continue
        if each.metadata.get("several"):
            if not isinstance(value, tuple) or not all(isinstance(one, kinds) for one in value):
                raise UserError(f"{each.name} is {shortened(repr(value))}; give a tuple, each of them {words}")
        elif not isinstance(value, kinds) or isinstance(value, bool) != is_switch:
            raise UserError(f"{each.name} is {shortened(repr(value))}; give {words}")


class _Named:
    """Settings that are told apart by their names."""

    def __new__(cls, *_: object, **given: object) -> Self:
        """Raise `UserError` for a setting that there is not, as `modle="standin"` in a notebook."""
        names = [each.name for each in fields(cls)]  # type: ignore[arg-type]  # subclasses are dataclasses
        if unknown := [name for name in given if name not in names]:
            raise UserError(f"there is no setting {unknown[0]!r}; settings are {', '.join(names)}")
        return super().__new__(cls)


@dataclass(frozen=True)
class Settings(_Named):
    """What an experiment depends on. A script with more settings has a subclass with more fields.

    In an interactive window, change a field with `dataclasses.replace`.
    """

    model: str = flag("gpt2", A_MODEL)
    engine: str = flag(
        "auto", "auto: rust_circuit where it is installed; reference: the definition, slow", choices=ENGINES
    )
    device: str = flag("auto", "auto, cpu, cuda or cuda:i")
    n: int = flag(490, "number of sentences", int)
    seed: int = flag(0, "seed of every random draw", int)
    as_published: bool = flag(False, "the published choices: erf GELU and all 768 years")
    out: Path | None = flag(
        None, "folder for the artifacts; paper-cache, or paper-cache/<model>, by default", named_path
    )
    memory_gb: float = flag(
        4.0, "gigabytes for batches of sentences, and as much for results; the model comes on top", float
    )
    circuit: str | None = flag(None, "paper, auto or a circuit's file; paper for gpt2, auto for others, by default")

    def __post_init__(self) -> None:
        _check_types(self)
        if self.n < 1:
            raise UserError(f"--n {self.n}: a data set needs at least one sentence; give --n 1 or more")
        if self.n > MOST_SENTENCES:
            raise UserError(f"--n: at most {MOST_SENTENCES:,} sentences can be drawn; give fewer")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed}: give a number from 0 to 2**63 - 1")
        if not LEAST_GB <= self.memory_gb <= MOST_GB:  # NaN fails too
            raise UserError(f"--memory-gb {self.memory_gb}: give a number of gigabytes, as 4.0")

    def check_fits(self, model: Model) -> None:
        """Raise `UserError` if a setting does not fit the model, before anything is computed.

        Also if what the script keeps of so many sentences does not fit in the memory that it may use.
        """
        each = self.bytes_a_sentence(model)
        if self.n * each > self.memory_gb * 1e9:
            fitting, needed = int(self.memory_gb * 1e9 / each), self.n * each / 1e9
            raise UserError(
                f"--n {self.n}: what is kept of so many sentences takes {needed:.2g} GB, and --memory-gb is "
                f"{self.memory_gb:g}; give {f'--n {fitting} or fewer, or ' if fitting else ''}more memory"
            )

    def asked(self) -> str:
        """The model by its title, and how many sentences it is asked on."""
        return f"{named(self.model).title}, {self.n} sentences"

    def bytes_a_sentence(self, model: Model) -> int:
        """Bytes that the script keeps for each sentence, not counting batches."""
        return SENTENCE_BYTES

    def artifact_folder(self) -> Path:
        """The folder for this run's artifacts; `paper-cache` itself is for GPT-2 small alone."""
        return _for_model(ROOT / "paper-cache", self.model) if self.out is None else named_path(self.out)

    def as_json(self) -> dict[str, object]:
        """The settings as plain values, for the run's record; the model has the same name from every folder."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        return values | {"model": named(self.model).name}


@dataclass(frozen=True)
class DiscoverySettings(Settings):
    """The settings of circuit_discovery.py, with the threshold of its search for a circuit."""

    threshold: float | None = flag(
        None,
        "auto keeps nodes whose effect is at least this share of the clean probability difference; by default the "
        f"largest of {', '.join(f'{share:g}' for share in THRESHOLDS)} with which the circuit suffices",
        float,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UserError(f"--threshold {self.threshold}: give a share between 0 and 1")

    def bytes_a_sentence(self, model: Model) -> int:
        """Also for the answers of a sweep of all heads and MLPs, and for joining them."""
        return SENTENCE_BYTES + 3 * ANSWERS_BYTES * model.architecture.n_nodes


@dataclass(frozen=True)
class NeuronSettings(Settings):
    """The settings of neuron_investigations.py, with the layer of its MLP."""

    layer: int | None = flag(None, "layer of the MLP; 10, or the last but one of fewer layers, by default", int)

    def artifact_folder(self) -> Path:
        """Each layer but the default one has a folder of its own."""
        return layer_folder(super().artifact_folder(), self.layer)

    def check_fits(self, model: Model) -> None:
        """Raise `UserError` for a layer that the model does not have as well."""
        super().check_fits(model)
        chosen_layer(model, self.layer)

    def bytes_a_sentence(self, model: Model) -> int:
        """Also for every neuron's effect, and for the logit lens of the strongest in two precisions."""
        d_mlp = model.architecture.d_mlp
        return SENTENCE_BYTES + FLOAT64 * d_mlp + 3 * ANSWERS_BYTES * min(LENS, d_mlp)


@dataclass(frozen=True)
class PcaSettings(Settings):
    """The settings of pca_experiments.py, with the nodes whose activations it looks at."""

    nodes: str | None = flag(None, "MLPs (their input) and heads (their output) at END, as m8,a7.h10; by circuit")

    def bytes_a_sentence(self, model: Model) -> int:
        """Also for each edit's change, and for the answers after it."""
        return SENTENCE_BYTES + EDITS * (FLOAT64 * model.architecture.d_model + ANSWERS_BYTES)


@dataclass(frozen=True)
class RandomCircuitSettings(Settings):
    """The settings of random_circuit_ablation.py, with the number of random circuits."""

    circuits: int = flag(200, "number of random circuits", int)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.circuits < 1:
            raise UserError(f"--circuits {self.circuits}: give at least one random circuit")
        if self.circuits > MOST_CIRCUITS:
            raise UserError(f"--circuits: at most {MOST_CIRCUITS:,} random circuits can be drawn; give fewer")

    def bytes_a_sentence(self, model: Model) -> int:
        """Also for both metrics of every circuit, and for joining them."""
        return SENTENCE_BYTES + 4 * FLOAT64 * self.circuits


VALIDATION = (  # the tests, in the order in which they are made
    "faithfulness", "seeds", "random", "minimality", "completeness", "counterfactuals", "sizes", "stability",
    "strength", "specificity", "interactions",
)  # fmt: skip


@dataclass(frozen=True)
class ValidationSettings(Settings):
    """The settings of circuit_validation.py, with the tests to make and the number of draws in each."""

    only: tuple[str, ...] = flag(VALIDATION, "the tests to make", choices=VALIDATION, several=True)
    circuits: int = flag(200, "number of random circuits of each kind", int)
    bootstraps: int = flag(20, "number of draws of the sentences on which the circuit is searched for again", int)
    thresholds: tuple[float, ...] = flag(
        STABILITY_THRESHOLDS,
        f"shares of clean with which the circuit is searched for again; below {FOLLOWED_FROM:g} at END alone",
        float,
        several=True,
    )
    seeds: int = flag(3, "number of data sets, of this seed and the next ones", int)
    quick: bool = flag(False, "a first look, with a tenth of the random circuits, draws and sentences")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least, most in (("circuits", 1, MOST_CIRCUITS), ("bootstraps", 2, 1000), ("seeds", 2, 100)):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"--{name} {getattr(self, name)}: give {least} to {most:,}")
        if not self.thresholds or len({*self.thresholds}) < len(self.thresholds):
            raise UserError("--thresholds: give one or more shares of clean, none of them twice, as 0.05 0.02")
        if unfit := [each for each in self.thresholds if not 0 < each < 1]:  # NaN fails too
            raise UserError(f"--thresholds {unfit[0]}: give shares between 0 and 1, as 0.02")
        if unknown := [test for test in self.only if test not in VALIDATION]:
            raise UserError(f"--only {shortened(unknown[0])}: the tests are {', '.join(VALIDATION)}")

    def asked(self) -> str:
        """Of what is left of the sentences with `quick`."""
        return Settings.asked(self.thinned())

    def chosen(self) -> ValidationSettings:
        """These settings, with torch for `auto`: rust_circuit would build circuits for thousands of path sets."""
        return replace(self.thinned(), engine="torch" if self.engine == "auto" else self.engine)

    def thinned(self) -> ValidationSettings:
        """With `quick`, a tenth of everything drawn, but at least a sentence of each YY; without it, these settings."""
        if not self.quick:
            return self
        fewer = {name: max(2, getattr(self, name) // 10) for name in ("circuits", "bootstraps", "seeds")}
        return replace(self, n=max(97, self.n // 10) if self.n > 97 else self.n, quick=False, **fewer)

    def bytes_a_sentence(self, model: Model) -> int:
        """Also for a metric of each node of the model in several sweeps, and of each random circuit."""
        swept = model.architecture.n_nodes
        return SENTENCE_BYTES + FLOAT64 * (40 * swept + 4 * self.circuits) + 3 * ANSWERS_BYTES * swept


@dataclass(frozen=True)
class NextTokenSettings(Settings):
    """The settings of random_years.py and topk_years.py, which keep the predictions for each sentence."""

    def bytes_a_sentence(self, model: Model) -> int:
        """Also for the probabilities of the answers and of the likeliest tokens, and what is computed from them."""
        return SENTENCE_BYTES + 8 * ANSWERS_BYTES


@dataclass(frozen=True)
class PlotSettings(_Named):
    """What a plotting script depends on: only artifacts, never a model."""

    model: str | None = flag(
        None, "whose artifacts: the name that the run was given; gpt2, or what lies in --artifacts, by default"
    )
    artifacts: Path | None = flag(None, "folder with the artifacts; where experiments put them, by default", named_path)
    out: Path | None = flag(None, "folder for the figures; paper-plots, or paper-plots/<model>, by default", named_path)

    def __post_init__(self) -> None:
        _check_types(self)

    def artifact_folder(self) -> Path:
        """The folder that the artifacts are read from."""
        if self.artifacts is not None:
            return named_path(self.artifacts)
        return _for_model(ROOT / "paper-cache", "gpt2" if self.model is None else self.model)

    def plot_folder(self, model: str) -> Path:
        """The folder for figures of a model, whose name is the one given to the run that made the artifacts."""
        return _for_model(ROOT / "paper-plots", model) if self.out is None else named_path(self.out)


@dataclass(frozen=True)
class NeuronPlotSettings(PlotSettings):
    """The settings of neuron_plots.py, with the layer of the MLP."""

    layer: int | None = flag(None, "the --layer that neuron_investigations.py was given", int)

    def artifact_folder(self) -> Path:
        """Each layer but the default one has a folder of its own."""
        return layer_folder(super().artifact_folder(), self.layer)


def model_folder(model: str) -> str | None:
    """The name of a model's folders: None for gpt2, its own for others, a checkpoint folder's with a mark."""
    asked = named(model)
    return None if asked.name == "gpt2" else asked.file_name(6)


def _for_model(folder: Path, model: str) -> Path:
    name = model_folder(model)
    return folder / name if name else folder


PAPER_LAYER = 10  # the neurons that the paper looks at are those of m10


def chosen_layer(model: Model, layer: int | None = None) -> int:
    """`layer`; without one the paper's, or in a model with fewer layers the last but one (or the only one).

    Raises `UserError` if the model does not have the layer.
    """
    n_layers = model.architecture.n_layers
    if layer is None:
        return PAPER_LAYER if n_layers > PAPER_LAYER else max(0, n_layers - 2)
    if not 0 <= layer < n_layers:
        raise UserError(f"--layer {layer}: {model.name} has the layers 0 to {n_layers - 1}")
    return layer


def layer_folder(folder: Path, layer: int | None) -> Path:
    """The folder for the neurons of a layer: `folder` without one or for the paper's, else a subfolder, as `m8`."""
    return folder if layer in (None, PAPER_LAYER) else folder / f"m{layer}"
