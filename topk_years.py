"""Are the likeliest next tokens sensible ones? Centuries from XX1 on before XX2, and years from YY on at END.

python topk_years.py [--model gpt2|standin|NAME|PATH] [--help]

The model runs in `transformers`; --engine changes nothing here.
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
from reproduction.command_line import read_settings

from reproduction.settings import NextTokenSettings

settings = read_settings(__doc__, NextTokenSettings(n=400))

import torch

from dataset import year_indices
from path_patching.gpt2.tokenizer import load_tokenizer
from reproduction.evaluations import Evaluations
from reproduction.next_token import predict_next
from reproduction.run import open_run
from utils import check_tokens, draw_sentences, start_transformers_experiment

CENTURIES = range(10, 100)  # each one token with its leading space
LIKELIEST_CENTURIES, LIKELIEST_YEARS = 100, 5
experiment = start_transformers_experiment(settings)
hf_model, device, run = experiment.hf_model, experiment.device, open_run("topk_years", experiment)

# %% Which sentences? N years drawn uniformly.
dataset = draw_sentences(settings, balanced=False)
check_tokens(settings, dataset.good_sentences, dataset.good_toks)
print(repr(dataset.good_sentences[0]))
evaluations = Evaluations(run, dataset.as_table())
note_mean = evaluations.note_mean


def numbers_of(tokens: torch.Tensor, ids: torch.Tensor, numbers: range) -> torch.Tensor:
    """The number that each of `tokens` (N, k) stands for, if it is one of `ids`; −1 for any other token."""
    number_of = torch.full((hf_model.config.vocab_size,), -1).index_put((ids,), torch.tensor(numbers))
    return number_of[tokens]


# %% Before XX2: how much of the probability of the 100 likeliest tokens is on XX1 and later centuries?
century_ids = torch.tensor(load_tokenizer()([f" {century}" for century in CENTURIES])["input_ids"]).squeeze(1)
said = predict_next(hf_model, dataset.good_toks[:, : dataset.end], century_ids, LIKELIEST_CENTURIES, device)
centuries, xx1 = numbers_of(said.top_tokens, century_ids, CENTURIES), dataset.years_XX[:, None]
top, from_xx1, of_xx1 = said.top, said.top * (centuries >= xx1), said.top * (centuries == xx1)  # (N, 100) each
before = "before XX2, top 100: probability of"
note_mean("before_xx2/top_100", "probability", top.sum(1), f"{before} all of them")
note_mean("before_xx2/centuries_from_xx1", "probability", from_xx1.sum(1), f"{before} centuries from XX1 on")
note_mean("before_xx2/xx1", "probability", of_xx1.sum(1), f"{before} XX1")
run.save(
    "top100_centuries.pt",
    {"probabilities": said.top, "centuries": centuries, "XX1": dataset.years_XX},
    kind="likeliest_tokens",
    position="before XX2",
)

# %% At END: how much of the probability of the 5 likeliest tokens is on years from YY on, and how many of them are?
said = predict_next(hf_model, dataset.good_toks, year_indices(), LIKELIEST_YEARS, device)
years, start_yy = numbers_of(said.top_tokens, year_indices(), range(100)), dataset.years_YY[:, None]
top, from_yy, how_many = said.top, said.top * (years >= start_yy), (years >= start_yy).sum(1)
at_end = "at END, top 5:"
note_mean("at_end/top_5", "probability", top.sum(1), f"{at_end} probability of all of them")
note_mean("at_end/years_from_yy", "probability", from_yy.sum(1), f"{at_end} probability of years from YY on")
note_mean("at_end/years_from_yy", "count", how_many, f"{at_end} how many are years from YY on")
run.save(
    "top5_years.pt",
    {"probabilities": said.top, "years": years, "YY": dataset.years_YY},
    kind="likeliest_tokens",
    position="END",
)

# %% Everything ran: publish it.
evaluations.save()
run.publish()
