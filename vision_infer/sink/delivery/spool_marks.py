"""What a spool remembers besides its records: its name, and how far it was sent."""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from contextlib import suppress
from pathlib import Path

SLOT = struct.Struct("<QI")


def name_of(folder: Path, fresh: bool) -> str:
    """Eight hexadecimal digits, made where nothing was ever numbered under others.

    Raises:
        OSError: it can be neither read nor written.
    """
    path = folder / "name"
    if not fresh:
        with suppress(FileNotFoundError):
            text = path.read_text(encoding="ascii", errors="replace")
            if len(text) == 8 and text.isalnum():
                return text
    name = secrets.token_hex(4)
    partial = folder / "name.partial"
    partial.write_text(name, encoding="ascii")
    partial.replace(path)
    return name


def slot(number: int) -> bytes:
    """A number as it stands in one of the two places of the file ``acknowledged``, which are written in turn."""
    return SLOT.pack(number, zlib.crc32(number.to_bytes(8, "little")))


def acknowledged(fd: int) -> int:
    """The last number that was acknowledged: of two places the greater that is whole."""
    data = os.pread(fd, 2 * SLOT.size, 0)
    numbers = [0]
    for start in range(0, len(data) - SLOT.size + 1, SLOT.size):
        number, checksum = SLOT.unpack_from(data, start)
        if checksum == zlib.crc32(number.to_bytes(8, "little")):
            numbers.append(number)
    return max(numbers)
