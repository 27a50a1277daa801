"""Insert a stream into the text of a configuration, and leave everything else as it is: comments, order and style.

No input or output here, except for :func:`replace_file`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vision_infer.config.yaml_lines import YamlError, compose, plain
from vision_infer.core.errors import OutputError
from vision_infer.stream.onvif.camera import OnvifProfile

_INDENT = 2


class NotEditableError(ValueError):
    """The text has a form into which no stream can be inserted; the message says which."""


def stream_urls(detect: OnvifProfile, view: OnvifProfile, user: str = "", reference: str = "") -> dict[str, str]:
    """Return the fields of a stream, with the user name and a reference in place of the password if they are given."""
    login = f"{quote(user, safe='')}:{reference}@" if user else ""

    def written(profile: OnvifProfile) -> str:
        scheme, _, rest = profile.url.replace("$", "$$").partition("://")  # a dollar sign begins a reference
        return f"{scheme}://{login}{rest}"

    return {"detect": written(detect)} | ({"view": written(view)} if view.url != detect.url else {})


def entry_line(name: str, stream: Mapping[str, str]) -> str:
    """Return a stream as one line, to be pasted below ``streams:``."""
    import yaml

    return f"{name}: {yaml.safe_dump(dict(stream), default_flow_style=True, sort_keys=False, width=1_000_000).strip()}"


def entry_lines(name: str, stream: Mapping[str, str], indent: int = _INDENT) -> list[str]:
    """Return a stream as lines without line ends, indented."""
    import yaml

    text = yaml.safe_dump({name: dict(stream)}, sort_keys=False, width=1_000_000, indent=_INDENT)
    return [" " * indent + line for line in text.splitlines()]


def with_stream(text: str, name: str, stream: Mapping[str, str]) -> str:
    """Return the text of a configuration with one more stream, after the others.

    Args:
        text: The text of the file; may be empty.
        name: The name of the stream, which is new.
        stream: Its fields.

    Raises:
        NotEditableError: The streams are not in YAML's block style, or the file is not valid.
    """
    try:
        tree = compose(text)
        before = {} if tree is None else plain(tree)
        if not isinstance(before, dict) or not isinstance(before.get("streams") or {}, dict):
            raise NotEditableError("has no mapping of streams")
        changed = _inserted(text, tree, name, stream)
        after = plain(compose(changed))
    except YamlError as error:
        raise NotEditableError(f"line {error.line}: {error.message}" if error.line else error.message) from None
    # Whatever the style of the file: exactly this stream was added.
    if after != {**before, "streams": {**(before.get("streams") or {}), name: dict(stream)}}:
        raise NotEditableError("has a form into which no stream can be inserted")
    return changed


def _inserted(text: str, tree: Any, name: str, stream: Mapping[str, str]) -> str:
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith(("\r", "\n")):
        lines[-1] += end
    found = [] if tree is None else [pair for pair in tree.value if pair[0].value == "streams"]
    if tree is not None and tree.flow_style:
        raise NotEditableError("is written in braces")
    if not found:
        at, new = len(lines), ["streams:", *entry_lines(name, stream)]
    else:
        key, streams = found[0]
        if isinstance(streams.value, list) and streams.value:
            if streams.flow_style:
                raise NotEditableError("has its streams in braces")
            column, last = streams.value[0][0].start_mark.column, _last_line(*streams.value[-1])
        else:  # nothing, {}, null or ~
            column, last = key.start_mark.column + _INDENT, key.end_mark.line
            lines[last] = re.sub(r":\s*(?:\{\s*\}|null|~)", ":", lines[last], count=1)
        while last + 1 < len(lines) and _is_comment(lines[last + 1], column):
            last += 1
        at, new = last + 1, entry_lines(name, stream, column)
    return "".join([*lines[:at], *(line + end for line in new), *lines[at:]])


def _last_line(key: Any, node: Any) -> int:
    """Return the index of the last line of a key and its value."""
    if node.start_mark.index < key.start_mark.index:  # an alias: its marks are those of the anchor
        return int(key.end_mark.line)
    if isinstance(node.value, list) and node.value and not node.flow_style:
        last = node.value[-1]
        return _last_line(*last) if isinstance(last, tuple) else _last_line(last, last)
    mark = node.end_mark
    return int(mark.line if mark.column or mark.line == node.start_mark.line else mark.line - 1)


def _is_comment(line: str, column: int) -> bool:
    """Return whether a line is a comment that is indented further than the names of streams, so it belongs to the last one."""
    return line.lstrip().startswith("#") and len(line) - len(line.lstrip()) > column


def replace_file(path: Path, text: str) -> None:
    """Write a file so that readers see either the old or the new content. The permissions and the owner stay the same.

    Raises:
        OutputError: It cannot be written; it is unchanged then.
    """
    target = path.resolve()  # a link stays a link
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        before = target.stat() if target.exists() else None
        # The file may contain passwords: it is never readable by more users than before.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if before is None else 0o600)
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            if before is not None:
                with suppress(PermissionError):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, before.st_mode & 0o7777)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(partial, target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OutputError(
            f"{path}: cannot be written: {error.strerror or error}", "Check that its folder exists and can be written."
        ) from error
