from __future__ import annotations

import pandas as pd
import torch

from dataset import NOUNS_FILE, YearDataset, get_valid_years
from path_patching.gpt2.tokenizer import load_tokenizer
from reproduction.evaluations import Evaluations, clusters_of


def test_clusters_are_the_nouns_and_yys_of_which_sentences_are_made():
    tokenizer = load_tokenizer()
    spans = YearDataset(get_valid_years(tokenizer), 194, NOUNS_FILE, tokenizer, seed=1)
    nouns, yys = clusters_of(spans.as_table())
    assert len(nouns) == len(yys) == 194
    for numbered, drawn in ((nouns, spans.nouns), (yys, spans.years_YY.tolist())):
        assert len(set(zip(numbered.tolist(), drawn, strict=True))) == len(set(drawn)) == len(numbered.unique())
    assert len(clusters_of(spans.as_table()[["YY"]])) == 1


def test_some_sentences_are_measured_by_their_own_yy():
    yy = [2, 50, 98]
    evaluations = Evaluations(None, pd.DataFrame({"YY": yy}), {"own": lambda probabilities, start_yy: start_yy + 0.0})
    rows = torch.tensor([2, 0])
    assert evaluations.measure("some", torch.ones(2, 100), rows)["own"].tolist() == [98, 2]
    assert evaluations.column("some", "own").nan_to_num(-1).tolist() == [2, -1, 98]
