"""The token that is made at the first start: printed once, kept as its hash only."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path

from vision_infer.core.clock import Clock
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.core.result import utc

FILE_NAME = "token.json"


def digest_of(token: str) -> bytes:
    """SHA-256. A slow hash would add nothing: there is nothing to guess in 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def load_or_make(state_dir: Path, clock: Clock) -> tuple[bytes, str | None]:
    """The hash of the token, and the token itself where it was made just now.

    Args:
        state_dir: where the hash is kept; made if it is not there.

    Raises:
        UsageError: the file is broken.
        OutputError: it cannot be read or written.
    """
    path = state_dir / FILE_NAME
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        _write(path, {"sha256": digest_of(token).hex(), "created": utc(clock.wall_ns())})
        return digest_of(token), token
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read: {error}", "check its permissions") from error
    try:
        digest = bytes.fromhex(json.loads(text)["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: holds no hash of a token", "delete it; a new token is made at the next start") from error
    if len(digest) != 32:
        raise UsageError(f"{path}: holds no hash of a token", "delete it; a new token is made at the next start")
    return digest, None


def _write(path: Path, values: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            json.dump(values, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}", "set state_dir, or service.token") from error
