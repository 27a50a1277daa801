"""Names and labels in rows of JSON."""

from __future__ import annotations

import json
from functools import lru_cache


@lru_cache(maxsize=4096)
def quoted(text: str) -> str:
    """A text as JSON has it, with its quotes.

    Names and labels repeat in every row: quoting them once is a third of the cost of a row. A file's name may hold bytes that are
    no text (surrogates, in Python); only escaped can they be written as UTF-8.
    """
    return json.dumps(text, ensure_ascii=any("\ud800" <= character <= "\udfff" for character in text))
