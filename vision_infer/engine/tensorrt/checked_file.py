"""Files that a runtime writes and reads again, behind the SHA-256 of their content: a damaged one never reaches the runtime."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.store.trust import refuse_untrusted, write_file

MAX_BYTES = 100_000_000
"""The maximum size of the content; a larger one is not written."""


def read_checked(path: Path) -> bytes | None:
    """Return the content; empty if the file does not exist, None if it is damaged, not trusted, or cannot be read."""
    if not os.path.lexists(path):
        return b""
    try:
        refuse_untrusted(path)
        content = path.read_bytes()
    except (EngineError, OSError):
        return None
    checksum, content = content[:32], content[32:]
    return content if hashlib.sha256(content).digest() == checksum else None


def write_checked(path: Path, content: bytes) -> None:
    """Write the content, unless it is empty or too large; the later of two simultaneous writers wins.

    Raises:
        OSError: It cannot be written; the earlier file is unchanged.
    """
    if content and len(content) <= MAX_BYTES:
        write_file(path, hashlib.sha256(content).digest() + content)
