"""API tokens of persons: stored as hashes, with an expiry, and revoked at once."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vision_infer.core.clock import Clock
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.service.errors import ConflictError
from vision_infer.service.http.token_file import digest_of, write_private

FILE_NAME = "api_tokens.json"
PREFIX = "vi_"
"""The beginning of all API tokens, by which scanners of published secrets can recognize them."""
MAX_TOKENS, MAX_TOKENS_OF_ONE = 1000, 50


@dataclass(frozen=True, slots=True)
class ApiToken:
    """An API token, without the secret."""

    id: str
    sha256: str
    person: str
    """The person, for people."""
    subject: str
    """The owner; see :class:`Principal`."""
    role: str
    note: str
    created_ns: int
    """Nanoseconds since 1970 (UTC)."""
    expires_ns: int
    """Nanoseconds since 1970 (UTC)."""


class ApiTokens:
    """The valid tokens. Any thread may look up; changes are serialized and block.

    Args:
        folder: The state folder.
        clock: The source of time.

    Raises:
        UsageError: The file with the tokens is damaged.
        OutputError: It cannot be read.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path = folder / FILE_NAME
        self._clock = clock
        # Serializes changes: the threads of requests hold it while they write the file.
        self._lock = threading.Lock()
        self._by_digest: Mapping[str, ApiToken] = _read(self._path)
        """The tokens by their hash, replaced as a whole."""

    def find(self, token: str) -> ApiToken | None:
        """Return a token by its secret; None if it is unknown or expired."""
        found = self._by_digest.get(digest_of(token).hex())
        return None if found is None or found.expires_ns <= self._clock.wall_ns() else found

    def all(self) -> list[ApiToken]:
        """Return the tokens that are not expired, oldest first."""
        return [token for token in self._by_digest.values() if token.expires_ns > self._clock.wall_ns()]

    def create(self, person: str, subject: str, role: str, note: str, lifetime_s: float) -> tuple[ApiToken, str]:
        """Create a token; return it and its secret, which is not stored.

        Raises:
            ConflictError: There are too many tokens.
            OutputError: It cannot be stored.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        now_ns = self._clock.wall_ns()
        name = secrets.token_hex(8)
        token = ApiToken(name, digest_of(secret).hex(), person, subject, role, note, now_ns, now_ns + round(lifetime_s * 1e9))
        with self._lock:
            valid = self.all()
            if len(valid) >= MAX_TOKENS or sum(one.subject == subject for one in valid) >= MAX_TOKENS_OF_ONE:
                raise ConflictError("the maximum number of API tokens is reached", "Revoke one that is not used.")
            self._store([*valid, token])
        return token, secret

    def revoke(self, name: str) -> None:
        """Make a token invalid; if it cannot be removed from the file, it is invalid until the next start.

        Raises:
            OutputError: The file cannot be written.
        """
        with self._lock:
            left = [token for token in self.all() if token.id != name]
            self._by_digest = {token.sha256: token for token in left}
            self._store(left)

    def _store(self, tokens: list[ApiToken]) -> None:
        write_private(self._path, [asdict(token) for token in tokens])
        self._by_digest = {token.sha256: token for token in tokens}


def _read(path: Path) -> Mapping[str, ApiToken]:
    try:
        stored = json.loads(path.read_bytes())
        tokens = [ApiToken(**values) for values in stored]
        wrong = [token for token in tokens for name, kind in _TYPES.items() if type(getattr(token, name)) is not kind]
        if type(stored) is not list or wrong:
            raise TypeError
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}", "Check its permissions.") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: is damaged", "Restore it, or delete it to revoke all API tokens.") from error
    return {token.sha256: token for token in tokens}


_TYPES = {"id": str, "sha256": str, "person": str, "subject": str, "role": str, "note": str, "created_ns": int, "expires_ns": int}
