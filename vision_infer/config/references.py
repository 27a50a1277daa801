"""References in a configuration's texts: ``${NAME}`` of the environment, ``${file:/path}``; ``$$`` is a dollar sign.

What is put into the user part of a URL, or stands for a value in its query, is percent-encoded: a secret is kept as it is. No
message holds what a reference gave.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

_PART = re.compile(r"\$\$|\$\{(?P<reference>[^{}]*)\}|(?P<open>\$\{)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?P<user>[^/?#]*)@")
_MARK = "\x00"
"""stands for a reference while the URL around it is looked at"""
_LARGEST_SECRET = 65_536
"""bytes"""


def has_references(text: str) -> bool:
    """Whether anything in a text would be replaced."""
    return "${" in text


def expand(text: str, environ: Mapping[str, str], folder: Path) -> str:
    """Replace the references.

    Args:
        text: as it stands in the configuration.
        environ: the environment.
        folder: what relative paths begin at.

    Raises:
        ValueError: one is malformed, its variable is not set, or its file cannot be read; names it, but no value.
    """
    matches = list(_PART.finditer(text))
    if not matches:
        return text
    values: list[tuple[re.Match[str], str, bool]] = [(match, *_resolved(match, environ, folder)) for match in matches]
    skeleton = ""
    spots: list[int] = []
    at = 0
    for match, value, secret in values:
        skeleton += text[at : match.start()]
        spots.append(len(skeleton))
        skeleton += _MARK if secret else value
        at = match.end()
    skeleton += text[at:]
    told = ""
    at = 0
    for spot, (_, value, secret) in zip(spots, values, strict=True):
        if secret:
            told += skeleton[at:spot] + _encoded(value, skeleton, spot)
            at = spot + len(_MARK)
    return told + skeleton[at:]


def read_secret(name: str, folder: Path) -> str:
    """The text of a file that holds one secret, without the end of its line.

    Raises:
        ValueError: it cannot be read, is empty, or holds more than a line; names the file.
    """
    path = folder / name
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_SECRET + 1) if stat.S_ISREG(path.stat().st_mode) else None
    except (OSError, ValueError) as error:
        raise ValueError(f"the file {name} cannot be read: {getattr(error, 'strerror', None) or 'wrong name'}") from None
    if data is None:
        raise ValueError(f"{name} is no file")
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"the file {name} is no UTF-8 text") from None
    if not text or len(data) > _LARGEST_SECRET or "\n" in text or _MARK in text:
        raise ValueError(f"the file {name} must hold the secret in one line, and nothing else")
    return text


def _resolved(match: re.Match[str], environ: Mapping[str, str], folder: Path) -> tuple[str, bool]:
    """(what stands in its place, whether it came from elsewhere)."""
    if match[0] == "$$":
        return "$", False
    reference = match["reference"]
    if reference is not None and reference.startswith("file:") and len(reference) > len("file:"):
        return read_secret(reference.removeprefix("file:"), folder), True
    if reference is None or not _NAME.fullmatch(reference):
        raise ValueError("a reference is ${NAME} or ${file:/path}; for a dollar sign write $$")
    if reference not in environ:
        raise ValueError(f"the environment variable {reference} is not set")
    return environ[reference], True


def _encoded(value: str, skeleton: str, spot: int) -> str:
    match = _USER.match(skeleton)
    if match is not None and match.start("user") <= spot < match.end("user"):
        if match["user"] == _MARK:  # user and password in one
            user, colon, password = value.partition(":")
            return quote(user, safe="") + colon + quote(password, safe="")
        return quote(value, safe="")
    query = skeleton.find("?")
    if "://" in skeleton and 0 <= query < spot and skeleton[spot - 1] == "=" and skeleton[spot + 1 : spot + 2] in ("", "&"):
        return quote(value, safe="")
    return value
