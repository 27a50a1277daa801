"""Reads a text file that names sources, one per line."""

from __future__ import annotations

import os

from vision_infer.core.errors import StreamError

_MAX_BYTES = 64_000_000
"""The maximum size of a list, which is held in memory."""


def read_list(path: str) -> list[tuple[int, str]]:
    """Read a list. Blank lines and lines that begin with ``#`` are ignored; spaces around a name are removed.

    Names are file system names: bytes that are not UTF-8 are kept as Python's surrogates.

    Returns:
        Pairs of the line number, from 1, and the name.

    Raises:
        StreamError: It cannot be read; the message does not name it.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        text = getattr(error, "strerror", None) or str(error)
        raise StreamError(f"the list cannot be read: {text}", "Check its name.") from error
    if len(data) > _MAX_BYTES:
        raise StreamError("too large for a list of sources", "A list is a text file with one source per line.")
    lines = data.removeprefix(b"\xef\xbb\xbf").splitlines()
    named = ((number, os.fsdecode(line.strip())) for number, line in enumerate(lines, 1))
    return [(number, name) for number, name in named if name and not name.startswith("#")]
