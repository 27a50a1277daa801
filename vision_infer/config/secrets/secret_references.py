"""References in a configuration: ``${NAME}`` for a variable, ``${file:/path}`` for a file, ``$$`` for a dollar sign.

Values in the user part of a URL, or of a query parameter, are percent-encoded, so secrets can be stored unencoded. No message
contains the value of a reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from vision_infer.config.yaml_lines import read_regular_file

_PART = re.compile(r"\$\$|\$\{(?P<reference>[^{}]*)\}|(?P<open>\$\{)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?P<user>[^/?#]*)@")
_MARK = "\x00"
"""The placeholder of a reference while the URL around it is parsed."""
_MAX_SECRET = 65_536
"""The maximum size of a secret file, in bytes."""


def has_references(text: str) -> bool:
    """Return whether a text contains references."""
    return "${" in text


def expand(text: str, environ: Mapping[str, str], folder: Path) -> str:
    """Replace the references.

    Args:
        text: The text as written in the configuration.
        environ: The environment.
        folder: The folder that relative paths start from.

    Raises:
        ValueError: A reference is malformed, its variable is not set, or its file cannot be read. The message has no value.
    """
    matches = list(_PART.finditer(text))
    if not matches:
        return text
    values: list[tuple[re.Match[str], str, bool]] = [(match, *_resolved(match, environ, folder)) for match in matches]
    skeleton = ""
    positions: list[int] = []
    at = 0
    for match, value, secret in values:
        skeleton += text[at : match.start()]
        positions.append(len(skeleton))
        skeleton += _MARK if secret else value
        at = match.end()
    skeleton += text[at:]
    expanded = ""
    at = 0
    for position, (_, value, secret) in zip(positions, values, strict=True):
        if secret:
            expanded += skeleton[at:position] + _encoded(value, skeleton, position)
            at = position + len(_MARK)
    return expanded + skeleton[at:]


def read_secret(name: str, folder: Path) -> str:
    """Read a file that contains one secret, without the line ending.

    Raises:
        ValueError: The file cannot be read, is empty, or has more than one line; names the file.
    """
    try:
        data = read_regular_file(folder / name, _MAX_SECRET + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"the file {name} cannot be read: {getattr(error, 'strerror', None) or 'invalid name'}") from None
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"the file {name} is not UTF-8 text") from None
    if not text or len(data) > _MAX_SECRET or "\n" in text or _MARK in text:
        raise ValueError(f"the file {name} must contain the secret on one line and nothing else")
    return text


def _resolved(match: re.Match[str], environ: Mapping[str, str], folder: Path) -> tuple[str, bool]:
    """Return the replacement, and whether it is a secret."""
    if match[0] == "$$":
        return "$", False
    reference = match["reference"]
    if reference is not None and reference.startswith("file:") and len(reference) > len("file:"):
        return read_secret(reference.removeprefix("file:"), folder), True
    if reference is None or not _NAME.fullmatch(reference):
        raise ValueError("a reference must be ${NAME} or ${file:/path}; write $$ for a dollar sign")
    if reference not in environ:
        raise ValueError(f"the environment variable {reference} is not set")
    return environ[reference], True


def _encoded(value: str, skeleton: str, position: int) -> str:
    match = _USER.match(skeleton)
    if match is not None and match.start("user") <= position < match.end("user"):
        if match["user"] == _MARK:  # the reference contains both user and password
            user, colon, password = value.partition(":")
            return quote(user, safe="") + colon + quote(password, safe="")
        return quote(value, safe="")
    query = skeleton.find("?")
    if (
        "://" in skeleton
        and 0 <= query < position
        and skeleton[position - 1] == "="
        and skeleton[position + 1 : position + 2] in ("", "&")
    ):
        return quote(value, safe="")
    return value
