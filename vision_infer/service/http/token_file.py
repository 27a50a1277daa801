"""The token that is generated at the first start: printed once, stored only as its hash."""

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
    """Return the SHA-256 of a token. A slow hash is not needed, because 256 random bits cannot be guessed."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def load_or_make(state_dir: Path, clock: Clock) -> tuple[bytes, str | None]:
    """Return the hash of the token in a folder, and the token itself if it was just generated.

    Raises:
        UsageError: The file is damaged.
        OutputError: The file cannot be read or written.
    """
    path = state_dir / FILE_NAME
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        write_private(path, {"sha256": digest_of(token).hex(), "created": utc(clock.wall_ns())})
        return digest_of(token), token
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read: {error}", "Check its permissions.") from error
    try:
        digest = bytes.fromhex(json.loads(text)["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: contains no valid token hash", "Delete it; the next start generates a new token.") from error
    if len(digest) != 32:
        raise UsageError(f"{path}: contains no valid token hash", "Delete it; the next start generates a new token.")
    return digest, None


def write_private(path: Path, values: object) -> None:
    """Replace a file that only this account may read by JSON, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
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
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}", "Set state_dir, or service.token.") from error
