"""YAML whose fields know their lines, so that a mistake is told with its place.

YAML's own comforts hide mistakes: of two equal keys it takes the last, ``on`` as a name becomes true, a date an object. Here
keys are text, equal keys are refused, and values are text, numbers, true, false, null, lists and mappings, nothing else. No
message holds a value of the file, for it may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision_infer.core.errors import UsageError

LARGEST_FILE = 4_000_000
"""bytes; more is no configuration"""

_MAX_NODES = 500_000
"""values, those behind aliases counted each time: aliases of aliases grow without bounds"""
_DEEPEST = 40
_LEVELS = {"MappingStartEvent": 1, "SequenceStartEvent": 1, "MappingEndEvent": -1, "SequenceEndEvent": -1}
_QUOTED = re.compile(r"'[^']{2,}'|\"[^\"]{2,}\"")
_MAP, _SEQ = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
_TEXTS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp", "value"))


class YamlError(ValueError):
    """What is wrong with a text as YAML.

    Args:
        message: without a value of the file.
        line: from 1; None where it is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UsageError: it cannot be read, is too large, or is no UTF-8.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        said = getattr(error, "strerror", None) or "is no name of a file"
        raise UsageError(f"{path}: cannot be read: {said}", "check the name and its permissions") from error
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{path}: is larger than {LARGEST_FILE // 1_000_000} MB", "is it a configuration?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line}: is no UTF-8 text", "save it as UTF-8") from None


def compose(text: str) -> Any:
    """The tree of a text; None where it holds nothing.

    Raises:
        YamlError: it is no YAML.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
    try:
        # The composer calls itself for each level, in C without a limit: too deep a text would end the process.
        depth = 0
        for event in yaml.parse(text, loader):
            depth += _LEVELS.get(type(event).__name__, 0)
            if depth > _DEEPEST:
                raise YamlError("is nested too deeply", None if event.start_mark is None else event.start_mark.line + 1)
        return yaml.compose(text, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = _QUOTED.sub("…", str(error.problem or error.context or "it breaks off"))
        raise YamlError(f"is no YAML: {problem}", None if mark is None else mark.line + 1) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise YamlError("is no YAML: it holds a control character", line) from None
    except YamlError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):
        raise YamlError("is no YAML") from None


def plain(node: Any) -> Any:
    """The values of a tree, keys as text.

    Raises:
        YamlError: a key is there twice, a tag is not known, or it is too deep or too large.
    """
    return _Plain().value(node, 0)


def line_of(node: Any, place: Sequence[str | int]) -> int:
    """The line, from 1, of a field, or of the nearest that is there of those that hold it."""
    import yaml

    line = node.start_mark.line
    for step in place:
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


class _Plain:
    def __init__(self) -> None:
        self._count = 0

    def value(self, node: Any, depth: int) -> Any:
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > _MAX_NODES or depth > _DEEPEST:
            raise YamlError("is nested too deeply, or holds too much", line)
        if node.tag == _MAP:
            return self._mapping(node, depth)
        if node.tag == _SEQ:
            return [self.value(one, depth + 1) for one in node.value]
        if node.tag in _TEXTS:
            return node.value
        if node.tag in _SCALARS:
            return _scalar(node, line)
        raise YamlError("has a tag that means nothing here: text that begins with ! needs quotes", line)

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, below in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key.value, str):
                raise YamlError("a list or a mapping is no key", line)
            if key.tag == "tag:yaml.org,2002:merge":
                for one in below.value if below.tag == _SEQ else [below]:
                    more = self.value(one, depth + 1)
                    if not isinstance(more, dict):
                        raise YamlError("'<<' takes mappings", line)
                    merged = more | merged
                continue
            if key.value in own:
                raise YamlError(f"{shown(key.value)} is there twice", line)
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
        raise YamlError("is no number, nor true, false or null, though it looks so: text needs quotes", line) from None


def shown(key: str | int) -> str:
    """A key as it is shown: what looks like anything but a name may be a part of a URL, and is not."""
    text = str(key)
    return text if re.fullmatch(r"[\w. -]{1,64}", text) else "…"
