"""Does the model count on after a list of years? What follows “y1, y2, y3, y4, y5, XX”, five years of one century.

python random_years.py [--model gpt2|standin|NAME|PATH] [--help]

The years are drawn at random, so the only thing to continue is the last one, YY5. The model runs in `transformers`;
--engine changes nothing here.
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
import random
from collections import Counter

from reproduction.command_line import read_settings

from reproduction.settings import NextTokenSettings

settings = read_settings(__doc__, NextTokenSettings(n=200))

import pandas as pd
import torch

from dataset import get_valid_years, year_indices
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import EOS, load_tokenizer, token_texts
from reproduction.evaluations import Evaluations
from reproduction.next_token import predict_next
from reproduction.run import open_run
from utils import check_tokens, start_transformers_experiment

LISTED, LIKELIEST = 5, 5
experiment = start_transformers_experiment(settings)
run = open_run("random_years", experiment)

# %% Which years? A year of any century, and before it four others of the same.
tokenizer = load_tokenizer()
years = get_valid_years(tokenizer, as_published=settings.as_published).tolist()
rng = random.Random(settings.seed)
lists = []
for last in rng.choices(years, k=settings.n):
    others = [year for year in years if year // 100 == last // 100 and year != last]
    lists.append([*rng.sample(others, LISTED - 1), last])
sentences = [f"{EOS} {', '.join(map(str, listed))}, {listed[-1] // 100}" for listed in lists]
rows = tokenizer(sentences)["input_ids"]

# %% Does the tokenizer see what we do? Every year two tokens, a comma after each, and the century alone at END.
year_ids, comma = year_indices().tolist(), tokenizer.convert_tokens_to_ids(",")
for sentence, row, listed in zip(sentences, rows, lists, strict=True):
    (century,) = tokenizer(f" {listed[-1] // 100}")["input_ids"]
    expected = [token for year in listed for token in (century, year_ids[year % 100], comma)]
    if row[1:] != [*expected, century]:
        raise UserError(f"{sentence!r} is not read as years and commas; use years from dataset.get_valid_years")
check_tokens(settings, sentences, torch.tensor(rows))
print(repr(sentences[0]))

# %% Which end years does the model predict? YY5 + 1, any later one, or others?
last_yy = torch.tensor([listed[-1] % 100 for listed in lists])
said = predict_next(experiment.hf_model, torch.tensor(rows), year_indices(), LIKELIEST, experiment.device)
later = torch.arange(100) > last_yy[:, None]  # (N, 100)
last_years = pd.Series([listed[-1] for listed in lists])
evaluations = Evaluations(run, pd.DataFrame({"year": last_years, "century": last_years // 100, "YY": last_years % 100}))
next_year = said.answers.gather(1, last_yy[:, None] + 1).squeeze(1)
evaluations.note_mean("next_year", "probability", next_year, "probability of YY5 + 1")
after, before = (said.answers * later).sum(1), (said.answers * ~later).sum(1)
evaluations.note_mean("later_years", "probability", after, "probability of years later than YY5")
evaluations.note_mean("other_years", "probability", before, "probability of years not later than YY5")

# %% And which tokens are the likeliest?
likeliest = said.mean.topk(LIKELIEST)
names = token_texts(tokenizer, likeliest.indices)
ranking = dict(zip(names, likeliest.values.tolist(), strict=True))
run.note("likeliest_tokens/probability", ranking, "likeliest tokens, mean probability", kind="ranking")
first = Counter(token_texts(tokenizer, said.top_tokens[:, 0]))
counts = dict(first.most_common(LIKELIEST))
run.note("likeliest_token/count", counts, "likeliest token, in how many sentences")
of_first = token_texts(tokenizer, said.top_tokens[0])
run.note("likeliest_tokens/of_first_sentence", of_first, "likeliest tokens of the first sentence")

# %% Everything ran: publish it.
run.save("random_years_probs.pt", said.answers, kind="year_probabilities")
top = {"probabilities": said.top, "tokens": said.top_tokens, "years": torch.tensor(lists)}
run.save("random_years_top5.pt", top, kind="likeliest_tokens")
evaluations.save()
run.publish()
