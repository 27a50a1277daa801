"""Parse YAML with line numbers, so that errors name the line.

Some features of YAML hide errors: it uses the last of two equal keys, ``on`` becomes true, and a date becomes an object. Here,
keys are text, duplicate keys are rejected, and values are text, numbers, true, false, null, lists and mappings only. No message
contains a value of the file, because it may be a password.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision_infer.core.errors import UsageError

MAX_FILE = 4_000_000
"""The maximum size of a configuration, in bytes."""

_MAX_NODES = 500_000
"""The maximum number of values. Those behind aliases count each time, because nested aliases grow exponentially."""
_MAX_DEPTH = 40
_LEVELS = {"MappingStartEvent": 1, "SequenceStartEvent": 1, "MappingEndEvent": -1, "SequenceEndEvent": -1}
_QUOTED = re.compile(r"'[^']{2,}'|\"[^\"]{2,}\"")
_MAP, _SEQ = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
_TEXTS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp", "value"))


class YamlError(ValueError):
    """A text is not valid YAML."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Return the beginning of a file. Opening a named pipe does not block.

    Raises:
        OSError: The file cannot be read, or is a pipe, a device or a folder.
        ValueError: The name contains a zero byte.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(max_bytes)


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        UsageError: The file cannot be read, is too large, or is not UTF-8.
    """
    try:
        data = read_regular_file(path, MAX_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or "invalid file name"
        raise UsageError(f"{path}: cannot be read: {reason}", "Check the name and the permissions.") from error
    if len(data) > MAX_FILE:
        raise UsageError(f"{path}: is larger than {MAX_FILE // 1_000_000} MB", "Check that it is a configuration.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line}: is not UTF-8 text", "Save it as UTF-8.") from None


def compose(text: str) -> Any:
    """Return the tree of a text; None if the text is empty.

    Raises:
        YamlError: The text is not valid YAML.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast if PyYAML was built with it
    try:
        # The composer recurses for each level, in C without a limit: a deeply nested text would crash the process.
        depth = 0
        for event in yaml.parse(text, loader):
            depth += _LEVELS.get(type(event).__name__, 0)
            if depth > _MAX_DEPTH:
                raise YamlError("is nested too deeply", None if event.start_mark is None else event.start_mark.line + 1)
        return yaml.compose(text, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = _QUOTED.sub("…", str(error.problem or error.context or "unexpected end"))
        raise YamlError(f"is not valid YAML: {problem}", None if mark is None else mark.line + 1) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise YamlError("is not valid YAML: it contains a control character", line) from None
    except YamlError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):
        raise YamlError("is not valid YAML") from None


def plain(node: Any) -> Any:
    """Convert a tree to plain values with text keys.

    Raises:
        YamlError: A key is duplicated, a tag is unknown, or the tree is too deep or too large.
    """
    return _TreeValues().value(node, 0)


def line_of(node: Any, location: Sequence[str | int]) -> int:
    """Return the line, from 1, of a field, or of its nearest existing parent."""
    import yaml

    line = node.start_mark.line
    for step in location:
        below = None
        if isinstance(node, yaml.MappingNode):
            below = next(((key, value) for key, value in node.value if key.value == str(step)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            below = (node.value[step], node.value[step])
        if below is None:
            break
        line = below[0].start_mark.line
        node = below[1]
    return int(line) + 1


class _TreeValues:
    def __init__(self) -> None:
        self._count = 0

    def value(self, node: Any, depth: int) -> Any:
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > _MAX_NODES or depth > _MAX_DEPTH:
            raise YamlError("is nested too deeply or too large", line)
        if node.tag == _MAP:
            return self._mapping(node, depth)
        if node.tag == _SEQ:
            return [self.value(item, depth + 1) for item in node.value]
        if node.tag in _TEXTS:
            return node.value
        if node.tag in _SCALARS:
            return _scalar(node, line)
        raise YamlError("has an unknown tag; quote text that starts with !", line)

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, below in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key.value, str):
                raise YamlError("a list or a mapping cannot be a key", line)
            if key.tag == "tag:yaml.org,2002:merge":
                for source in below.value if below.tag == _SEQ else [below]:
                    more = self.value(source, depth + 1)
                    if not isinstance(more, dict):
                        raise YamlError("'<<' requires mappings", line)
                    merged = more | merged
                continue
            if key.value in own:
                raise YamlError(f"{shown(key.value)} is a duplicate key", line)
            own[key.value] = self.value(below, depth + 1)
        return merged | own if merged else own


def _scalar(node: Any, line: int) -> Any:
    import yaml

    try:
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, OverflowError, KeyError):
        raise YamlError("looks like a number, boolean or null but is not valid; quote it if it is text", line) from None


def shown(key: str | int) -> str:
    """Return a key for display; … if it does not look like a name, because it may be part of a URL."""
    text = str(key)
    return text if re.fullmatch(r"[\w. -]{1,64}", text) else "…"
