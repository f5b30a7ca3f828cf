"""Train the stand-in: a small GPT-2 that computes greater-than, for trying everything without a download.

    python examples/train_standin.py

The stand-in has GPT-2's architecture and vocabulary (12 layers, 12 heads, width 96) and is trained from scratch on
generated year-span text. End years are likelier near the start year, as in text. Its circuit is its own: nothing that
is found in it says anything about GPT-2. Only the tokens of the training text are trained; the rows of all others stay
zero, so that they share one logit, 0, which makes the loss over all 50,257 tokens exact and cheap.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from reproduction.command_line import prepare

import safetensors.torch
import torch
import transformers
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from dataset import ITEMS, YearDataset, get_valid_years, load_nouns, year_indices
from path_patching.errors import UserError
from path_patching.files import written_whole
from path_patching.gpt2.tensor_cache import STANDIN_FOLDER
from path_patching.gpt2.tokenizer import EOS, load_tokenizer
from path_patching.progress import progress
from path_patching.unembedding import answer_probabilities
from utils import cutoff_sharpness, prob_diff

# What a sentence may say before the century at END. The first is the paper's; the others are greater-than prompts of
# its section 5, lest they be wholly foreign. Less-than prompts are left out: what a greater-than circuit does there
# is a question of the paper's.
SPAN = "The {noun} lasted from the year {year} to the year"
OTHERS = (
    "The {noun} started in the year {year} and ended in the year",
    "The {noun} happened in {year}. Some years later, it is now the year",
    "{earlier}, {year},",
    "{year} is smaller than",
    "The price of that {item} ranges from $ {year} to $",
)
EARLIER_YEARS = 99  # how far a list of years reaches back


def _setting(default: float, explanation: str) -> float:
    return field(default=default, metadata={"help": explanation})


@dataclass(frozen=True)
class Settings:
    """Everything that decides the stand-in."""

    steps: int = _setting(4000, "optimizer steps")
    batch_size: int = _setting(64, "sentences a step")
    learning_rate: float = _setting(2e-3, "AdamW's at the end of the warm-up; falls linearly to zero from there")
    warmup: float = _setting(0.05, "share of the steps in which the learning rate rises from zero")
    weight_decay: float = _setting(0.01, "AdamW's")
    short_gap: float = _setting(2.0, "mean of end minus start year at first; nothing is learned from long gaps alone")
    long_gap: float = _setting(15.0, "mean of end minus start year later on")
    short_share: float = _setting(0.4, "share of the steps that use the short gap")
    century_weight: float = _setting(0.2, "weight of predicting the end year's century, beside 1 for the year at END")
    without_eos: float = _setting(0.2, "share of sentences that do not begin with <|endoftext|>")
    other_prompts: float = _setting(0.15, "share of sentences that are not 'The NOUN lasted ...'")
    held_out_nouns: int = _setting(24, "nouns never shown, on which the model is judged")
    n_layer: int = _setting(12, "layers")
    n_head: int = _setting(12, "attention heads a layer")
    n_embd: int = _setting(96, "width of the residual stream")
    n_positions: int = _setting(64, "longest input in tokens; the longest prompts here take under 48")
    seed: int = _setting(0, "of the weights, the text and the choice of held-out nouns")
    threads: int = _setting(1, "CPU threads; another number may round differently")


@dataclass(frozen=True)
class Example:
    """A prompt up to the century at END, and the end year that follows it (0 ... 99)."""

    prompt: str
    end_yy: int


def split_nouns(nouns: Sequence[str], settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Nouns to train on and nouns held out."""
    held_out = set(random.Random(settings.seed).sample(sorted(nouns), settings.held_out_nouns))
    return tuple(noun for noun in nouns if noun not in held_out), tuple(noun for noun in nouns if noun in held_out)


def start_years(tokenizer: GPT2TokenizerFast) -> list[int]:
    """Years to begin a span: the data set's, and their 01 twins so that the corrupted input is not foreign."""
    years = get_valid_years(tokenizer).tolist()
    return sorted({*years, *(year - year % 100 + 1 for year in years)})


def draw_example(rng: random.Random, nouns: Sequence[str], years: Sequence[int], gap: float, s: Settings) -> Example:
    """One sentence; the end year is e^(-1/gap) times as likely with every further year, up to 99."""
    year = rng.choice(years)
    yy = year % 100
    weights = [math.exp(-later / gap) for later in range(99 - yy)]
    end_yy = rng.choices(range(yy + 1, 100), weights)[0]
    is_span = rng.random() >= s.other_prompts
    template = SPAN if is_span else rng.choice(OTHERS)
    earlier = ", ".join(map(str, sorted(rng.choices(range(year - EARLIER_YEARS, year), k=4))))
    text = template.format(noun=rng.choice(nouns), item=rng.choice(ITEMS), year=year, earlier=earlier)
    eos = "" if rng.random() < s.without_eos else EOS
    space = " " if is_span or rng.random() < 0.5 else ""
    return Example(f"{eos}{space}{text} {year // 100}", end_yy)


@dataclass(frozen=True)
class TextCoder:
    """Sentences as rows of the K tokens that training shows, numbered 0 ... K - 1 in the order of their ids."""

    tokenizer: GPT2TokenizerFast
    row_of: Mapping[int, int]
    """Row of each shown token id, K of them, ascending."""
    year_rows: torch.Tensor
    """Rows of the year tokens "00" ... "99", int64 (100,)."""

    @property
    def untouched(self) -> int:
        """How many of the vocabulary's tokens are never shown."""
        return len(self.tokenizer) - len(self.row_of)

    def encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the tokens (N, T), padded behind END, where causal attention never looks, and END (N,)."""
        token_ids = self.tokenizer(list(prompts))["input_ids"]
        rows = [torch.tensor([self.row_of[token] for token in sentence]) for sentence in token_ids]
        return pad_sequence(rows, batch_first=True), torch.tensor([len(row) - 1 for row in rows])


def text_coder(tokenizer: GPT2TokenizerFast, nouns: Sequence[str], years: Sequence[int]) -> TextCoder:
    """A coder for every sentence that `draw_example` can draw."""
    numbers = range(min(years) - EARLIER_YEARS, max(years) + 1)
    fillings = {"noun": nouns[0], "item": ITEMS[0], "year": years[0], "earlier": years[0]}
    texts = [before + template.format(**fillings) for template in (SPAN, *OTHERS) for before in ("", " ")]
    texts += [EOS, *(f" {noun}" for noun in nouns), *(f" {item}" for item in ITEMS)]
    texts += [f"{before}{number}" for number in numbers for before in ("", " ")]
    texts += [f" {century}" for century in {year // 100 for year in years}]
    year_ids = year_indices().tolist()
    shown = sorted({token for ids in tokenizer(texts)["input_ids"] for token in ids} | set(year_ids))
    row_of = {token: row for row, token in enumerate(shown)}
    return TextCoder(tokenizer, row_of, torch.tensor([row_of[token] for token in year_ids]))


def new_model(settings: Settings, vocab_size: int) -> GPT2LMHeadModel:
    """A GPT-2 of the given size, weights drawn from the seed, no dropout; leaves torch's own random state alone."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=settings.n_positions,
        n_embd=settings.n_embd,
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=vocab_size - 1,
        eos_token_id=vocab_size - 1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return GPT2LMHeadModel(config)


def loss_of(model: GPT2LMHeadModel, examples: Sequence[Example], coder: TextCoder, s: Settings) -> torch.Tensor:
    """Cross-entropy over the whole vocabulary of the end year at END, plus a little of the century before it."""
    tokens, ends = coder.encode([example.prompt for example in examples])  # (N, T), (N,)
    end_years = coder.year_rows[torch.tensor([example.end_yy for example in examples])]
    sentence = torch.arange(len(examples))
    residual = model.transformer(input_ids=tokens).last_hidden_state  # (N, T, D)
    at_end = cross_entropy(model.lm_head(residual[sentence, ends]), end_years, coder.untouched)
    at_century = cross_entropy(model.lm_head(residual[sentence, ends - 1]), tokens[sentence, ends], coder.untouched)
    return at_end + s.century_weight * at_century


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, untouched: int) -> torch.Tensor:
    """Mean cross-entropy of (N, K) logits beside `untouched` further ones that are all zero."""
    others = torch.full((len(logits), 1), math.log(untouched))
    return functional.cross_entropy(torch.cat([logits, others], dim=1), targets)


def train(settings: Settings, nouns: Sequence[str], coder: TextCoder, years: Sequence[int]) -> GPT2LMHeadModel:
    """The trained model over the K shown tokens; prints the loss now and then."""
    model = new_model(settings, len(coder.row_of)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, settings))
    rng = random.Random(settings.seed)
    for step in progress(range(settings.steps), "training the stand-in"):
        gap = settings.short_gap if step < settings.short_share * settings.steps else settings.long_gap
        examples = [draw_example(rng, nouns, years, gap, settings) for _ in range(settings.batch_size)]
        loss = loss_of(model, examples, coder, settings)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, settings.steps // 20) == 0:
            print(f"step {step + 1} of {settings.steps}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def learning_rate_share(step: int, settings: Settings) -> float:
    """Share of the full learning rate at a step: a linear rise, then a linear fall to zero."""
    warmup = max(1, round(settings.warmup * settings.steps))
    return min((step + 1) / warmup, (settings.steps - step) / max(1, settings.steps - warmup))


def with_whole_vocabulary(model: GPT2LMHeadModel, coder: TextCoder, settings: Settings) -> GPT2LMHeadModel:
    """The same model with all 50,257 tokens, those never shown at zero, rounded to float16 and read in float32."""
    whole = new_model(settings, len(coder.tokenizer)).eval()
    weights = dict(model.state_dict())
    embedding = torch.zeros(len(coder.tokenizer), settings.n_embd)
    embedding[list(coder.row_of)] = weights["transformer.wte.weight"]
    weights |= {"transformer.wte.weight": embedding, "lm_head.weight": embedding}
    whole.load_state_dict({name: tensor.half().float() for name, tensor in weights.items()})
    return whole


@torch.no_grad()
def judge(model: GPT2LMHeadModel, nouns: Sequence[str], tokenizer: GPT2TokenizerFast, n: int = 970) -> dict[str, float]:
    """Mean metrics on `n` balanced sentences of these nouns: clean, corrupted, and with END kept from looking at YY.

    The last says how far YY reaches END by END's own attention rather than by way of the positions between them.
    """
    data = YearDataset(get_valid_years(tokenizer), n, nouns, tokenizer)
    causal = torch.tril(torch.ones(len(data.good_prompt), len(data.good_prompt), dtype=torch.bool))
    blind = causal.clone()
    blind[data.end, data.yy] = False

    def probs(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Year probabilities (n, 100), a few sentences at a time: 50,257 float64 logits each take memory."""
        return torch.cat([probs_of_few(few, mask.expand(len(few), 1, -1, -1)) for few in tokens.split(97)])

    def probs_of_few(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        residual = model.transformer(input_ids=tokens, attention_mask=mask).last_hidden_state
        return answer_probabilities(model.lm_head(residual[:, data.end]), year_indices())

    clean = probs(data.good_toks, causal)
    corrupted = probs(data.bad_toks, causal)
    unseen = probs(data.good_toks, blind)
    return {
        "probability_difference": prob_diff(clean, data.years_YY).mean().item(),
        "cutoff_sharpness": cutoff_sharpness(clean, data.years_YY).mean().item(),
        "probability_difference_corrupted": prob_diff(corrupted, data.years_YY).mean().item(),
        "probability_difference_end_not_attending_yy": prob_diff(unseen, data.years_YY).mean().item(),
    }


def save(model: GPT2LMHeadModel, record: dict[str, object], folder: Path) -> None:
    """Write config.json, model.safetensors (float16) and training.json; all three are ready before one is published."""
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    del tensors["lm_head.weight"]  # tied to the token embedding
    # "float32" asks readers to compute in float32 with weights that are only stored in float16.
    description = model.config.to_dict() | {"architectures": ["GPT2LMHeadModel"], "dtype": "float32"}
    with (
        written_whole(folder / "training.json") as training,
        written_whole(folder / "config.json") as config,
        written_whole(folder / "model.safetensors") as weights,
    ):
        safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
        config.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        training.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[Settings, Path]:
    """Settings and output folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=STANDIN_FOLDER, help="folder to write (default: cache/standin)")
    for setting in fields(Settings):
        flag = "--" + setting.name.replace("_", "-")
        explanation = f"{setting.metadata['help']} (default: {setting.default})"
        parser.add_argument(flag, type=type(setting.default), default=setting.default, help=explanation)
    given = vars(parser.parse_args(arguments))
    return Settings(**{setting.name: given[setting.name] for setting in fields(Settings)}), given["out"]


def check(settings: Settings, nouns: Sequence[str]) -> None:
    """UserError if the settings cannot make a model."""
    if min(settings.steps, settings.batch_size, settings.n_layer, settings.n_head, settings.threads) < 1:
        raise UserError("--steps, --batch-size, --n-layer, --n-head and --threads must be at least 1")
    if not min(settings.short_gap, settings.long_gap) > 0:
        raise UserError("--short-gap and --long-gap are mean numbers of years; give more than 0")
    shares = (settings.warmup, settings.short_share, settings.without_eos, settings.other_prompts)
    if not all(0 <= share <= 1 for share in shares):
        raise UserError("--warmup, --short-share, --without-eos and --other-prompts are shares; give 0 to 1")
    if settings.n_embd < 1 or settings.n_embd % settings.n_head:
        raise UserError(f"--n-embd {settings.n_embd} must be a positive multiple of --n-head {settings.n_head}")
    if settings.n_positions < 48:
        raise UserError(f"--n-positions {settings.n_positions} is too short for the longest prompts; give at least 48")
    if not 0 < settings.held_out_nouns < len(nouns):
        raise UserError(f"--held-out-nouns must lie between 1 and {len(nouns) - 1}: some to train on, some to judge by")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, judge on held-out nouns and write the stand-in."""
    settings, folder = parse_arguments(arguments)
    nouns = load_nouns()
    check(settings, nouns)
    folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be had is found out now, not after the training
    torch.set_num_threads(settings.threads)
    tokenizer = load_tokenizer()
    shown, held_out = split_nouns(nouns, settings)
    years = start_years(tokenizer)
    coder = text_coder(tokenizer, shown, years)
    began = time.monotonic()
    model = with_whole_vocabulary(train(settings, shown, coder, years), coder, settings)
    minutes = (time.monotonic() - began) / 60
    record = {
        "settings": asdict(settings),
        "held_out_nouns": held_out,
        "held_out": judge(model, held_out, tokenizer),
        "trained_nouns": judge(model, shown, tokenizer),
        "trained_tokens": len(coder.row_of),
        "minutes": round(minutes, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    save(model, record, folder)
    print(json.dumps({"held_out": record["held_out"], "trained_nouns": record["trained_nouns"]}, indent=2))
    print(f"wrote {folder} after {minutes:.1f} minutes")


if __name__ == "__main__":
    prepare()
    main()
