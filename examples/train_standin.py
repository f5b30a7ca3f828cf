"""Train the stand-in: a small GPT-2 with the greater-than circuit that the paper describes, to try everything on.

    python examples/train_standin.py
    python examples/standin_numbers.py     # and measure it

The stand-in has GPT-2's architecture and vocabulary (12 layers, 12 heads, width 120) and is trained from scratch on
generated year-span text. End years are likelier near the start year, as in real text. Besides the ordinary loss, it is
trained on runs in which the circuit's nodes come from one sentence and everything else from another
(`examples/interchange.py`). Half of these other sentences are 01 twins, half have another year of the century. So its
circuit is known, and nothing found in it says anything about GPT-2.

Only the tokens of the training text are trained. The rows of all other tokens stay zero, so that they share one logit,
0, and the loss over all 50,257 tokens is exact and cheap.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

# The repository's modules are one folder above; they are not installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import safetensors.torch
import torch
import transformers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from dataset import get_valid_years, load_nouns, year_indices
from interchange import (
    HEADS,
    LATE_MLPS,
    LOWER_HEADS,
    LOWER_MLPS,
    Layout,
    Pairs,
    Taken,
    interchange,
    ordinary_run,
)
from path_patching.errors import UserError
from path_patching.files import write_text, written_whole
from path_patching.gpt2.checkpoint import named_tensors
from path_patching.gpt2.model import Architecture, Model
from path_patching.gpt2.names import STANDIN_FOLDER
from path_patching.gpt2.tokenizer import EOS, Tokenizer, load_tokenizer
from path_patching.progress import progress
from standin_numbers import RECORD, judge
from tasks.prompts import ITEMS

# What a sentence may say before the century at END. The first is the paper's. The others are greater-than prompts of
# its section 5, so that the model has seen their kind. Less-than prompts are left out: the paper asks what a
# greater-than circuit does there.
SPAN = "The {noun} lasted from the year {year} to the year"
OTHERS = (
    "The {noun} started in the year {year} and ended in the year",
    "The {noun} happened in {year}. Some years later, it is now the year",
    "{earlier}, {year},",
    "{year} is smaller than",
    "The price of that {item} ranges from $ {year} to $",
)


def _setting(default: float, explanation: str) -> float:
    return field(default=default, metadata={"help": explanation})


@dataclass(frozen=True)
class Settings:
    """Everything that decides the stand-in."""

    steps: int = _setting(3200, "optimizer steps")
    sentences: int = _setting(6, "sentences a step")
    years_each: int = _setting(24, "start years of each sentence, 01 among them")
    learning_rate: float = _setting(2e-3, "AdamW's at the end of the warm-up; falls linearly to zero from there")
    warmup: float = _setting(0.02, "share of the steps in which the learning rate rises from zero")
    weight_decay: float = _setting(0.01, "AdamW's")
    short_gap: float = _setting(2.0, "mean of end minus start year at first; nothing is learned from long gaps alone")
    long_gap: float = _setting(15.0, "mean of end minus start year later on")
    short_share: float = _setting(0.4, "share of the steps that use the short gap")
    any_year: float = _setting(
        0.05, "share of end years that are any of the 100, so that no year is out of the question"
    )
    ordinary_weight: float = _setting(0.2, "weight of the loss of ordinary runs, beside 1 for intervened ones")
    century_weight: float = _setting(0.1, "weight of predicting the end year's century in ordinary runs")
    twin_share: float = _setting(0.5, "share of intervened runs with the 01 twin; the rest have another year")
    partly_share: float = _setting(0.3, "share of a stage's interventions that take only some nodes from the source")
    without_eos: float = _setting(0.2, "share of steps whose sentences do not begin with <|endoftext|>")
    other_prompts: float = _setting(0.25, "share of steps whose sentences are not 'The NOUN lasted ...'")
    held_out_nouns: int = _setting(24, "nouns never shown, on which the model is judged")
    n_embd: int = _setting(120, "width of the residual stream")
    n_positions: int = _setting(64, "longest input in tokens; the longest prompts here take under 48")
    initial_scale: float = _setting(0.08, "standard deviation of the weights at first; GPT-2's 0.02 suits its width")
    seed: int = _setting(0, "of the weights, the text and the choice of held-out nouns")
    threads: int = _setting(1, "CPU threads; another number may round differently")


N_LAYER = N_HEAD = 12  # the circuit's names are for this size


def split_nouns(nouns: Sequence[str], settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Nouns to train on and nouns held out."""
    held_out = set(random.Random(settings.seed).sample(sorted(nouns), settings.held_out_nouns))
    return tuple(noun for noun in nouns if noun not in held_out), tuple(noun for noun in nouns if noun in held_out)


@dataclass(frozen=True)
class Text:
    """What sentences are made of, and their tokens as rows 0 ... K - 1 of the tokens that training shows."""

    tokenizer: Tokenizer
    nouns: tuple[str, ...]
    years: Mapping[int, Sequence[int]]
    """For each century, the start years YY that have a twin, ascending."""
    shown: torch.Tensor
    """Ids of the K tokens that training shows, ascending, int64 (K,)."""

    @property
    def untouched(self) -> int:
        """How many of the vocabulary's tokens are never shown."""
        return len(self.tokenizer) - len(self.shown)

    @cached_property
    def year_rows(self) -> torch.Tensor:
        """Rows of the year tokens "00" ... "99", int64 (100,)."""
        return torch.searchsorted(self.shown, year_indices())

    def rows(self, sentences: Sequence[str]) -> torch.Tensor:
        """Rows of the tokens of sentences of equal length, int64 (N, T)."""
        tokens = torch.tensor(self.tokenizer(list(sentences))["input_ids"])
        rows = torch.searchsorted(self.shown, tokens)
        assert torch.equal(self.shown[rows], tokens), "a token that is not shown"
        return rows


def valid_yys(tokenizer: Tokenizer) -> dict[int, list[int]]:
    """For each century, the start years YY of the data set, ascending."""
    years = defaultdict(list)
    for year in get_valid_years(tokenizer).tolist():
        years[year // 100].append(year % 100)
    return years


def text_of(tokenizer: Tokenizer, nouns: Sequence[str]) -> Text:
    """The text that `draw_batch` can draw."""
    years = valid_yys(tokenizer)
    filled = {"noun": nouns[0], "item": ITEMS[0], "year": 1732, "earlier": "1732, 1732"}
    words = [*(template.format(**filled) for template in (SPAN, *OTHERS)), *nouns, *ITEMS]
    words += [f"{century}{yy:02d}" for century, yys in years.items() for yy in (1, *yys)]
    words += [f"{century}" for century in years]
    tokens = tokenizer([EOS, *(f" {each}" for each in words)])["input_ids"]
    shown = {token for ids in tokens for token in ids} | {*year_indices().tolist()}
    return Text(tokenizer, tuple(nouns), years, torch.tensor(sorted(shown)))


@dataclass(frozen=True)
class Batch:
    """G sentences with K start years each, as `Layout` arranges them; the first year of each sentence is its 01."""

    tokens: torch.Tensor
    """Rows of the tokens, int64 (G, L)."""
    starts: torch.Tensor
    """Start years YY, int64 (G, K)."""
    layout: Layout


def draw_batch(rng: random.Random, text: Text, s: Settings) -> Batch:
    """Sentences of one prompt; each has its own noun, century and start years."""
    template = rng.choice(OTHERS) if rng.random() < s.other_prompts else SPAN
    eos = "" if rng.random() < s.without_eos else EOS
    starts, sentences = [], []
    for _ in range(s.sentences):
        century = rng.choice([*text.years])
        starts.append([1, *rng.sample(text.years[century], s.years_each - 1)])
        words = {"noun": rng.choice(text.nouns), "item": rng.choice(ITEMS), "earlier": draw_earlier(rng, text, century)}
        sentences += [f"{eos} {template.format(**words, year=f'{century}{yy:02d}')} {century}" for yy in starts[-1]]
    tokens = text.rows(sentences).unflatten(0, (s.sentences, s.years_each))  # (G, K, T)
    yy = int((tokens != tokens[:, :1]).any(0).any(0).nonzero())  # the only position at which a sentence's years differ
    between = 0 if rng.random() < s.twin_share else rng.randrange(s.years_each)
    layout = Layout(yy, s.years_each, tokens.shape[2] - yy - 2, between)
    in_one = torch.cat([tokens[:, 0, :yy], tokens[:, :, yy], tokens[:, 0, yy + 1 : -1], tokens[:, :, -1]], 1)
    return Batch(in_one, torch.tensor(starts), layout)


def draw_earlier(rng: random.Random, text: Text, century: int) -> str:
    """Four years of this century or the one before, ascending or not."""
    centuries = [each for each in (century - 1, century) if each in text.years]
    years = [100 * each + yy for each in centuries for yy in text.years[each]]
    drawn = rng.sample(years, 4)
    return ", ".join(map(str, sorted(drawn) if rng.random() < 0.5 else drawn))


def log_end_years(starts: torch.Tensor, gap: float, any_year: float) -> torch.Tensor:
    """Log probabilities of the end years 00 ... 99 after start years (...): (..., 100).

    With every further year an end year is e^(-1/gap) times as likely; a share `any_year` is spread over all years.
    """
    later = torch.arange(100) - starts[..., None] - 1
    weights = torch.where(later >= 0, torch.exp(-later / gap), 0.0)
    return ((1 - any_year) * weights / weights.sum(-1, keepdim=True) + any_year / 100).log()


def new_model(settings: Settings, vocab_size: int, activation: str = "gelu_new") -> GPT2LMHeadModel:
    """A GPT-2 of the given size, weights drawn from the seed, no dropout; leaves torch's own random state alone."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=settings.n_positions,
        n_embd=settings.n_embd,
        n_layer=N_LAYER,
        n_head=N_HEAD,
        activation_function=activation,
        initializer_range=settings.initial_scale,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=vocab_size - 1,
        eos_token_id=vocab_size - 1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(settings.seed)
        model = GPT2LMHeadModel(config)
        for block in model.transformer.h:  # undo the scale by depth, else MLPs would drown what heads write
            block.attn.c_proj.weight *= math.sqrt(2 * N_LAYER)
    return model


def losses_of(
    model: GPT2LMHeadModel, batch: Batch, text: Text, gap: float, s: Settings, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """For each kind of run, the divergence from the end years that it should give; and the loss of the century."""
    layout, wanted = batch.layout, log_end_years(batch.starts, gap, s.any_year)  # (G, K, 100)
    run = ordinary_run(model, batch.tokens, layout)
    before_end = log_probabilities(model, run.final[:, -1 - layout.years], text)  # (G, shown tokens)
    century = functional.nll_loss(before_end, batch.tokens[:, -1])
    ordinary = divergence(model, layout.at_end(run.final), wanted, text)
    pairs = Pairs(model, run, layout, *draw_pairs(batch.starts.shape, s, generator))
    taken = draw_taken(pairs.source.shape, s, generator)
    followed, widely = (torch.rand(2, generator=generator) < 0.5).tolist()
    share = taken.source_share(followed)[..., None]
    between = share * pairs.of_source(wanted) + (1 - share) * pairs.of_base(wanted)
    intervened = divergence(model, interchange(pairs, taken, followed, widely), between.log_softmax(-1), text)
    return {"intervened": intervened, "ordinary": ordinary, "century": century}


def draw_pairs(shape: Sequence[int], s: Settings, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources and bases, (G, 2 K) each: every year with its 01 twin or another year, in both directions."""
    own = torch.arange(shape[1]).expand(*shape)
    another = torch.randint(shape[1], shape, generator=generator)
    twin = torch.rand(shape, generator=generator) < s.twin_share
    partner = torch.where(twin, 0, another)
    return torch.cat([own, partner], 1), torch.cat([partner, own], 1)


def draw_taken(shape: Sequence[int], s: Settings, generator: torch.Generator) -> Taken:
    """For most pairs all nodes of each stage; for the rest some of them, with every number equally likely."""

    def stage(n_nodes: int) -> torch.Tensor:
        partly = torch.rand(*shape, 1, generator=generator) < s.partly_share
        some = torch.rand(*shape, n_nodes, generator=generator) < torch.rand(*shape, 1, generator=generator)
        return some | ~partly

    return Taken(stage(len(LOWER_HEADS) + len(LOWER_MLPS)), stage(len(HEADS)), stage(len(LATE_MLPS)))


def log_probabilities(model: GPT2LMHeadModel, final: torch.Tensor, text: Text) -> torch.Tensor:
    """Log probabilities (..., K) of the shown tokens after a final residual stream (..., D).

    Tokens that are never shown count in the softmax: their logits are all zero.
    """
    logits = model.lm_head(model.transformer.ln_f(final))
    others = torch.full((*logits.shape[:-1], 1), math.log(text.untouched))
    every: torch.Tensor = torch.cat([logits, others], -1).log_softmax(-1)
    return every[..., :-1]


def divergence(model: GPT2LMHeadModel, final: torch.Tensor, wanted: torch.Tensor, text: Text) -> torch.Tensor:
    """Mean Kullback-Leibler divergence, in nats, of a prediction from log probabilities (..., 100) of end years."""
    predicted = log_probabilities(model, final, text)[..., text.year_rows]
    return (wanted.exp() * (wanted - predicted)).sum(-1).mean()


def train(settings: Settings, text: Text) -> tuple[GPT2LMHeadModel, dict[str, float]]:
    """The trained model over the K shown tokens, and its last losses, which are printed from time to time."""
    model = new_model(settings, len(text.shown), "gelu_pytorch_tanh").train()  # gelu_new in one operation: faster
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, settings))
    weights = {"intervened": 1.0, "ordinary": settings.ordinary_weight, "century": settings.century_weight}
    rng, generator = random.Random(settings.seed), torch.Generator().manual_seed(settings.seed)
    every, history = max(1, settings.steps // 100), []
    for step in progress(range(settings.steps), "training the stand-in"):
        gap = settings.short_gap if step < settings.short_share * settings.steps else settings.long_gap
        losses = losses_of(model, draw_batch(rng, text, settings), text, gap, settings, generator)
        optimizer.zero_grad()
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        history.append(torch.stack([*losses.values()]).detach())
        if (step + 1) % every == 0:
            print(f"step {step + 1} of {settings.steps}: {means(losses, history[-every:])}", flush=True)
    return model.eval(), means(losses, history[-every:])


def means(names: Iterable[str], losses: Sequence[torch.Tensor]) -> dict[str, float]:
    """The mean of each loss over some steps, by name."""
    mean = torch.stack([*losses]).mean(0).tolist()
    return {name: round(loss, 4) for name, loss in zip(names, mean, strict=True)}


def learning_rate_share(step: int, settings: Settings) -> float:
    """Share of the full learning rate at a step: a linear rise, then a linear fall to zero."""
    warmup = max(1, round(settings.warmup * settings.steps))
    return min((step + 1) / warmup, (settings.steps - step) / max(1, settings.steps - warmup))


def with_whole_vocabulary(model: GPT2LMHeadModel, text: Text, settings: Settings) -> GPT2LMHeadModel:
    """The model with all 50,257 tokens (those never shown are zero), rounded to float16 and read as float32."""
    whole = new_model(settings, len(text.tokenizer)).eval()
    weights = dict(model.state_dict())
    embedding = torch.zeros(len(text.tokenizer), settings.n_embd)
    embedding[text.shown] = weights["transformer.wte.weight"]
    weights |= {"transformer.wte.weight": embedding, "lm_head.weight": embedding}
    whole.load_state_dict({name: tensor.half().float() for name, tensor in weights.items()})
    return whole


def as_model(model: GPT2LMHeadModel) -> Model:
    """The model in the form that engines take."""
    config = model.config
    sizes = Architecture(
        n_layers=config.n_layer,
        n_heads=config.n_head,
        d_model=config.n_embd,
        d_head=config.n_embd // config.n_head,
        d_mlp=4 * config.n_embd,
        n_positions=config.n_positions,
        vocab_size=config.vocab_size,
    )
    state = {**model.transformer.state_dict(), "lm_head.weight": model.lm_head.weight.detach()}
    return Model("stand-in", sizes, named_tensors(state, sizes), fingerprint="just trained")


def command(settings: Settings) -> str:
    """The command that trains with these settings."""
    changed = {name: value for name, value in asdict(settings).items() if value != getattr(Settings(), name)}
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in changed.items()]
    return " ".join(["python examples/train_standin.py", *flags])


def save(model: GPT2LMHeadModel, folder: Path) -> None:
    """Write config.json and model.safetensors (float16), both made before one is published; an old record goes."""
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    del tensors["lm_head.weight"]  # tied to the token embedding
    # "float32" asks readers to compute in float32 with weights that are only stored in float16.
    description = model.config.to_dict() | {"architectures": ["GPT2LMHeadModel"], "dtype": "float32"}
    with written_whole(folder / "config.json") as config, written_whole(folder / "model.safetensors") as weights:
        safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
        config.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        (folder / RECORD).unlink(missing_ok=True)


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[Settings, Path]:
    """Settings and output folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=STANDIN_FOLDER, help="folder to write (default: the stand-in's)")
    for setting in fields(Settings):
        flag = "--" + setting.name.replace("_", "-")
        explanation = f"{setting.metadata['help']} (default: {setting.default})"
        parser.add_argument(flag, type=type(setting.default), default=setting.default, help=explanation)
    given = vars(parser.parse_args(arguments))
    return Settings(**{setting.name: given[setting.name] for setting in fields(Settings)}), given["out"]


def check(settings: Settings, nouns: Sequence[str], centuries: Mapping[int, Sequence[int]]) -> None:
    """UserError if the settings cannot make a model."""
    if min(settings.steps, settings.sentences, settings.threads) < 1:
        raise UserError("--steps, --sentences and --threads must be at least 1")
    most = 1 + min(map(len, centuries.values()))
    if not 2 <= settings.years_each <= most:
        raise UserError(f"--years-each {settings.years_each}: give 2 to {most}, as many as every century has")
    if not min(settings.short_gap, settings.long_gap, settings.initial_scale) > 0:
        raise UserError("--short-gap, --long-gap and --initial-scale must be more than 0")
    if not 0 < settings.any_year < 1:
        raise UserError("--any-year is a share between 0 and 1, neither of them: every year must be possible")
    shares = ("warmup", "short_share", "twin_share", "partly_share", "without_eos", "other_prompts")
    for name in shares:
        if not 0 <= getattr(settings, name) <= 1:
            raise UserError(f"--{name.replace('_', '-')} is a share; give 0 to 1")
    if settings.n_embd < 1 or settings.n_embd % N_HEAD:
        raise UserError(f"--n-embd {settings.n_embd} must be a positive multiple of the {N_HEAD} heads")
    if settings.n_positions < 48:
        raise UserError(f"--n-positions {settings.n_positions} is too short for the longest prompts; give at least 48")
    if not 0 < settings.held_out_nouns < len(nouns):
        raise UserError(f"--held-out-nouns must lie between 1 and {len(nouns) - 1}: some to train on, some to judge by")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, judge on held-out nouns and write the stand-in."""
    settings, folder = parse_arguments(arguments)
    nouns = load_nouns()
    tokenizer = load_tokenizer()
    check(settings, nouns, valid_yys(tokenizer))
    folder.mkdir(parents=True, exist_ok=True)  # an impossible folder is noticed now, not after the training
    torch.set_num_threads(settings.threads)
    shown, held_out = split_nouns(nouns, settings)
    text = text_of(tokenizer, shown)
    began = time.monotonic()
    trained, losses = train(settings, text)
    minutes = (time.monotonic() - began) / 60
    model = with_whole_vocabulary(trained, text, settings)
    save(model, folder)  # before it is judged, so that it is not lost if that fails
    record = {
        "command": command(settings),
        "settings": asdict(settings),
        "last_losses": losses,
        "held_out_nouns": held_out,
        "held_out": judge(as_model(model), held_out),
        "trained_nouns": judge(as_model(model), shown),
        "trained_tokens": len(text.shown),
        "minutes": round(minutes, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    print(json.dumps(record["held_out"], indent=2))
    print(f"wrote {folder} after {minutes:.1f} minutes")


if __name__ == "__main__":
    prepare()
    main()
