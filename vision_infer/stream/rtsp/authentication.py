"""Basic and Digest authentication for RTSP (RFC 2617, RFC 7616).

Of several challenges, the strongest is answered: Digest with SHA-256, Digest with MD5, Basic. No text of this module contains the
password: not the representation of an object, and not an error.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_MAX_CHALLENGES = 8
"""The maximum number of challenges that are considered."""
_HASHES = {"md5": "md5", "md5-sess": "md5", "sha-256": "sha256", "sha-256-sess": "sha256"}
_STRENGTH = {"sha256": 3, "md5": 2, "": 1}
# "Digest realm=" begins a challenge; a parameter may be a token or a quoted string.
_ITEM = re.compile(r'[\s,]*(?:([A-Za-z][\w-]*)[ \t]+(?=[\w-]+[ \t]*=))?([\w-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers."""

    scheme: str
    """``basic`` or ``digest``."""
    realm: str
    nonce: str = ""
    algorithm: str = ""
    """The algorithm as the server writes it; empty if it names none, which means MD5."""
    qop: str = ""
    """``auth``, or empty if the server does not offer it."""
    opaque: str | None = None
    stale: bool = False
    """Whether the password was correct, but the nonce is too old."""

    @property
    def hash_name(self) -> str:
        """The name of the hash function; empty for Basic."""
        return _HASHES[self.algorithm.lower() or "md5"] if self.scheme == "digest" else ""


def challenges(values: Iterable[str]) -> list[Challenge]:
    """Return the supported challenges of ``WWW-Authenticate`` headers, the strongest first. What cannot be parsed is left out."""
    found: list[tuple[str, dict[str, str]]] = []
    for value in values:
        at, bare = 0, value.strip().lower()
        if bare in ("basic", "digest"):
            found.append((bare, {}))
            continue
        begun = False
        while item := _ITEM.match(value, at):
            at = item.end()
            if item[1] is not None:
                found.append((item[1].lower(), {}))
                begun = True
            if begun:
                text = item[4] if item[3] is None else _ESCAPED.sub(r"\1", item[3])
                found[-1][1].setdefault(item[2].lower(), text)
    offered = [challenge for scheme, items in found[:_MAX_CHALLENGES] if (challenge := _challenge(scheme, items))]
    return sorted(offered, key=lambda challenge: -_STRENGTH[challenge.hash_name])


def _challenge(scheme: str, items: dict[str, str]) -> Challenge | None:
    realm = items.get("realm", "")
    if scheme == "basic":
        return Challenge("basic", realm)
    algorithm, nonce = items.get("algorithm", ""), items.get("nonce", "")
    offered = [word.strip().lower() for word in items.get("qop", "").split(",") if word.strip()]
    qop = "auth" if "auth" in offered else ""
    supported = (algorithm.lower() or "md5") in _HASHES and (qop or not offered)
    if scheme != "digest" or not nonce or not supported:
        return None
    stale = items.get("stale", "").lower() == "true"
    return Challenge("digest", realm, nonce, algorithm, qop, items.get("opaque"), stale)


@dataclass(slots=True)
class Authenticator:
    """Authenticates the requests of one connection.

    Args:
        user: The user name; empty if there is none.
        password: The password.
    """

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    challenge: Challenge | None = field(default=None, init=False)
    """The challenge that requests answer; None until the server has sent one."""
    _count: int = field(default=0, init=False)

    @property
    def realm(self) -> str:
        """The realm of the challenge; empty before the server has sent one."""
        return "" if self.challenge is None else self.challenge.realm

    def challenged(self, values: Iterable[str]) -> bool:
        """Take the challenges of a response with status 401.

        Args:
            values: The values of its ``WWW-Authenticate`` headers.

        Returns:
            Whether to send the request again. False if there is no user name, if no challenge is supported, or if the server
            has refused the user name and the password.
        """
        offered = challenges(values)
        if not offered or not (self.user or self.password):
            return False
        best, before = offered[0], self.challenge
        # A new nonce without "stale" after an answer means that the password is wrong. Some servers issue a nonce for each
        # request and never set "stale", so a nonce that was accepted before may be replaced once.
        refused = before is not None and not best.stale and (self._count == 1 or best.nonce == before.nonce)
        self.challenge, self._count = best, 0
        return not refused

    def header(self, method: str, url: str, cnonce: str) -> str | None:
        """Return the value of the ``Authorization`` header of the next request; None if no challenge was received.

        Args:
            method: The method of the request.
            url: The URL as it is in the request.
            cnonce: A random text that no earlier request used: hexadecimal digits.
        """
        asked = self.challenge
        if asked is None:
            return None
        self._count += 1
        if asked.scheme == "basic":
            return "Basic " + base64.b64encode(_bytes(f"{self.user}:{self.password}")).decode("ascii")
        secret = self._hash(f"{self.user}:{asked.realm}:{self.password}")
        if asked.algorithm.lower().endswith("-sess"):
            secret = self._hash(f"{secret}:{asked.nonce}:{cnonce}")
        count, target = f"{self._count:08x}", self._hash(f"{method}:{url}")
        middle = f"{asked.nonce}:{count}:{cnonce}:{asked.qop}" if asked.qop else asked.nonce
        quoted = {"username": self.user, "realm": asked.realm, "nonce": asked.nonce, "uri": url}
        quoted["response"] = self._hash(f"{secret}:{middle}:{target}")
        parts = [f'{name}="{_quoted(value)}"' for name, value in quoted.items()]
        if asked.algorithm:
            parts.append(f"algorithm={asked.algorithm}")
        if asked.qop:
            parts += [f"qop={asked.qop}", f"nc={count}"]
        if asked.qop or asked.algorithm.lower().endswith("-sess"):
            parts.append(f'cnonce="{cnonce}"')
        if asked.opaque is not None:
            parts.append(f'opaque="{_quoted(asked.opaque)}"')
        return "Digest " + ", ".join(parts)

    def _hash(self, text: str) -> str:
        assert self.challenge is not None
        return hashlib.new(self.challenge.hash_name, _bytes(text), usedforsecurity=False).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # an argument of the command line may have bytes that are not UTF-8


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
