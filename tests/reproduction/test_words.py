from __future__ import annotations

import pytest

from reproduction import story
from reproduction.words import Explained, word_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two spans, a span", "two [spans], a span"),
        ("spans of a late half", "[spans] of a [late half]"),
        ("half a half", "half a half"),  # a part of a word
        ("a9.h1@END at END", "a9.h1@END at [END]"),  # a part of a name
        ("x →q y", "x [→q] y"),
        ("<b> & spans", "&lt;b&gt; &amp; [spans]"),
    ],
)
def test_the_first_of_each_word_is_a_link(text, expected):
    told = Explained({"span": "span", "spans": "span", "late half": "late half", "END": "END", "→q": "→q"})
    linked = told(text, "a part").replace("</a>", "]")
    for word in ("span", "late half", "END", "→q"):
        linked = linked.replace(f'<a class="word" href="#{word_id(word)}">', "[")
    assert linked == expected


def test_each_part_of_the_page_has_its_own_links():
    told = Explained({"span": "span"})
    assert "<a" in told("span", "one part")
    assert "<a" in told("span", "another part")
    assert "<a" not in told("span", "one part")


def test_no_word_is_explained_twice():
    words = [each["word"] for each in story._story()["word"]]
    forms = [form for each in story._story()["word"] for form in (each["word"], *each.get("forms", ()))]
    assert len(set(words)) == len(words)
    assert len(set(forms)) == len(forms)
