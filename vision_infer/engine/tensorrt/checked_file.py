"""Files that a runtime writes and reads again, behind the SHA-256 of their content: a damaged one never reaches the runtime."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.store.trust import refuse_untrusted

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
    if not content or len(content) > MAX_BYTES:
        return
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
