from __future__ import annotations

from dataset import NOUNS_FILE, YearDataset, get_valid_years
from path_patching.gpt2.tokenizer import load_tokenizer
from reproduction.evaluations import clusters_of


def test_clusters_are_the_nouns_and_yys_of_which_sentences_are_made():
    tokenizer = load_tokenizer()
    spans = YearDataset(get_valid_years(tokenizer), 194, NOUNS_FILE, tokenizer, seed=1)
    nouns, yys = clusters_of(spans.as_table())
    assert len(nouns) == len(yys) == 194
    for numbered, drawn in ((nouns, spans.nouns), (yys, spans.years_YY.tolist())):
        assert len(set(zip(numbered.tolist(), drawn, strict=True))) == len(set(drawn)) == len(numbered.unique())
    assert len(clusters_of(spans.as_table()[["YY"]])) == 1
