"""Are the likeliest next tokens sensible ones? Centuries from XX1 on before XX2, and years from YY on at END.

python topk_years.py [--model gpt2|standin|PATH] [--help]

The model runs in `transformers`; --engine and --memory-gb change nothing here.
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
import torch

from dataset import year_indices
from path_patching.bootstrap import mean
from path_patching.gpt2.tokenizer import load_tokenizer
from reproduction.settings import Settings, read_settings
from utils import draw_sentences, open_run, predict_next, start_transformers_experiment

CENTURIES = range(10, 100)  # each one token with its leading space
LIKELIEST_CENTURIES, LIKELIEST_YEARS = 100, 5
settings = read_settings(__doc__, Settings(n=400))
experiment = start_transformers_experiment(settings)
hf_model, device, run = experiment.hf_model, experiment.device, open_run("topk_years", experiment)

# %% Which sentences? N years drawn uniformly.
dataset = draw_sentences(settings, balanced=False)
print(repr(dataset.good_sentences[0]))


def numbers_of(tokens: torch.Tensor, ids: torch.Tensor, numbers: range) -> torch.Tensor:
    """The number that each of `tokens` (N, k) stands for, if it is one of `ids`; −1 for any other token."""
    number_of = torch.full((hf_model.config.vocab_size,), -1).index_put((ids,), torch.tensor(numbers))
    return number_of[tokens]


def note_mean(name: str, values: torch.Tensor) -> None:
    """Record the mean of a per-sentence quantity (N,) with its interval."""
    run.note(name, mean(values, settings.seed))


# %% Before XX2: how much of the probability of the 100 likeliest tokens is on XX1 and later centuries?
century_ids = torch.tensor(load_tokenizer().convert_tokens_to_ids([f"Ġ{century}" for century in CENTURIES]))
said = predict_next(hf_model, dataset.good_toks[:, : dataset.end], century_ids, LIKELIEST_CENTURIES, device)
centuries, xx1 = numbers_of(said.top_tokens, century_ids, CENTURIES), dataset.years_XX[:, None]
note_mean("before XX2, top 100: probability of all of them", said.top.sum(1))
note_mean("before XX2, top 100: probability of centuries from XX1 on", (said.top * (centuries >= xx1)).sum(1))
note_mean("before XX2, top 100: probability of XX1", (said.top * (centuries == xx1)).sum(1))
run.save("top100_centuries.pt", {"probabilities": said.top, "centuries": centuries, "XX1": dataset.years_XX})

# %% At END: how much of the probability of the 5 likeliest tokens is on years from YY on, and how many of them are?
said = predict_next(hf_model, dataset.good_toks, year_indices(), LIKELIEST_YEARS, device)
years, yy = numbers_of(said.top_tokens, year_indices(), range(100)), dataset.years_YY[:, None]
note_mean("at END, top 5: probability of all of them", said.top.sum(1))
note_mean("at END, top 5: probability of years from YY on", (said.top * (years >= yy)).sum(1))
note_mean("at END, top 5: how many are years from YY on", (years >= yy).sum(1))
run.save("top5_years.pt", {"probabilities": said.top, "years": years, "YY": dataset.years_YY})

# %% Everything ran: publish it.
run.publish()
