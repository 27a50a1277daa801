"""An ONNX file may name other files that hold its weights; those have to lie in its own folder."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision_infer.core.errors import ModelError
from vision_infer.engine.onnx_bytes import fields, span, text_of

if TYPE_CHECKING:
    import onnx

_KEY = "location"
# Numbers of the fields in onnx.proto, which may never change: in which messages tensors lie, and where in a tensor the key is.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_DEEPEST = 64
"""messages within each other; graphs that are meant to run have ten"""


def refuse_external_data_outside(path: Path) -> None:
    """Check where a file's external data lies, before any runtime opens it.

    Raises:
        ModelError: the file cannot be read, or names data outside its folder.
    """
    external_files(path)


def external_files(path: Path) -> tuple[Path, ...]:
    """The other files that hold a file's weights, sorted; they need not exist.

    Raises:
        ModelError: the file cannot be read, or names data outside its folder.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # Nearly every file has its weights inside: only one with the key of external data is looked into.
            if content.find(_KEY.encode()) < 0:
                return ()
            told = _told(content)
    except (OSError, ValueError) as error:
        reason = "it is empty" if isinstance(error, ValueError) else getattr(error, "strerror", None) or str(error)
        raise ModelError(f"{path} cannot be read: {reason}", "give an ONNX file or the name of a model") from error
    folder = path.parent.resolve()
    found = set()
    for name in _parsed(path) if told is None else told:
        other = (folder / name).resolve()
        if not other.is_relative_to(folder):
            raise ModelError(f"{path} wants data outside its folder: {name!r}", "refused for safety")
        found.add(other)
    return tuple(sorted(found))


def _told(content: mmap.mmap) -> list[str] | None:
    """The names of other files, by the file's own bytes: importing ``onnx`` for them would cost every start a tenth of a second.

    Returns:
        None where the key stands anywhere else too, or the file is not as expected: a parser that knows all of ONNX has to say.
    """
    try:
        told = list(_locations(content, "model", 0, len(content), _DEEPEST))
    except (ValueError, LookupError, TypeError):
        return None
    return told if len(told) == _count(content, _KEY.encode()) else None


def _locations(content: mmap.mmap, message: str, start: int, end: int, deepest: int) -> Iterator[str]:
    if not deepest:
        raise ValueError("too many messages within each other")
    if message == "entry":
        entry = dict(fields(content, start, end))
        if text_of(content, entry[_ENTRY_KEY]) == _KEY:
            yield text_of(content, entry[_ENTRY_VALUE])
        return
    inside = _INSIDE[message]
    for number, value in fields(content, start, end):
        if number in inside:
            yield from _locations(content, inside[number], *span(value), deepest - 1)


def _count(content: mmap.mmap, word: bytes) -> int:
    count, at = 0, content.find(word)
    while at >= 0:
        count, at = count + 1, content.find(word, at + 1)
    return count


def _parsed(path: Path) -> Iterator[str]:
    """The names of other files, by the package ``onnx``."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's and onnx's errors have no common type
        raise ModelError(f"{path} is not an ONNX file", "give an ONNX file or the name of a model") from error
    for tensor in _tensors(model):
        yield from (entry.value for entry in tensor.external_data if entry.key == _KEY)


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in the file: initializers, attributes, subgraphs, functions, and what later versions add."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _tensors(part)
