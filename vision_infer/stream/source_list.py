"""A text file that names sources, one on each line."""

from __future__ import annotations

import os

from vision_infer.core.errors import StreamError

_MAX_BYTES = 64_000_000
"""a list is held in memory; what is larger is no list"""


def read_list(path: str) -> list[tuple[int, str]]:
    """Read a list. Blank lines and lines that begin with ``#`` say nothing; spaces around a name are taken off, those in it stay.

    Names are those of the file system: bytes that are no UTF-8 come through as Python passes them.

    Returns:
        (line number from 1, what it names).

    Raises:
        StreamError: it cannot be read; the message does not name it.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        said = getattr(error, "strerror", None) or str(error)
        raise StreamError(f"the list cannot be read: {said}", "check its name") from error
    if len(data) > _MAX_BYTES:
        raise StreamError("is too large for a list of sources", "a list is a text file with a source on each line")
    lines = data.removeprefix(b"\xef\xbb\xbf").splitlines()
    named = ((number, os.fsdecode(line.strip())) for number, line in enumerate(lines, 1))
    return [(number, name) for number, name in named if name and not name.startswith("#")]
