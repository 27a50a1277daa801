"""Names and labels in rows of JSON."""

from __future__ import annotations

import json
from functools import lru_cache


@lru_cache(maxsize=4096)
def quoted(text: str) -> str:
    """Return a text as a JSON string, with its quotes.

    Names and labels repeat in every row: quoting them once is a third of the cost of a row. A file name may contain bytes
    that are not valid text (surrogates in Python); these can only be written to UTF-8 as escapes.
    """
    return json.dumps(text, ensure_ascii=any("\ud800" <= character <= "\udfff" for character in text))
