"""The field's words in the texts of the report: where one stands first in a part of the page, it is a link.

The link leads to what the word means; with JavaScript the page shows that where the word stands.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Mapping


class Explained:
    """Texts as HTML, with links to words; `forms` has the word for each form in which it may stand in a text."""

    def __init__(self, forms: Mapping[str, str]) -> None:
        self.forms = forms
        longest_first = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        self.found = re.compile(rf"(?<![\w@.])({longest_first})(?![\w@])")
        self.linked: defaultdict[str, set[str]] = defaultdict(set)
        """The words that are links already, by part of the page."""

    def __call__(self, text: str, part: str) -> str:
        """The text, in which each word is a link that is not yet one in this part of the page."""
        pieces = self.found.split(text)  # every second one is a word
        return "".join(self._word(piece, part) if at % 2 else html.escape(piece) for at, piece in enumerate(pieces))

    def _word(self, form: str, part: str) -> str:
        word = self.forms[form]
        if word in self.linked[part]:
            return html.escape(form)
        self.linked[part].add(word)
        return f'<a class="word" href="#{word_id(word)}">{html.escape(form)}</a>'


def word_id(word: str) -> str:
    """The identity of a word in the page's list of words."""
    return f"word-{word.replace(' ', '-')}"
