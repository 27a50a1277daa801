"""External data: an ONNX file may refer to other files with its weights, which have to be in its own folder."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision_infer.core.errors import ModelError
from vision_infer.engine.onnx_bytes import fields, span, text_of

if TYPE_CHECKING:
    import onnx

_KEY = "location"
# The field numbers of onnx.proto, which never change (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto): the messages that
# contain tensors, and the position of the key in a tensor.
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
_MAX_NAME = 255
"""The maximum length of the name of an external file, as file systems have it."""
_MAX_DEPTH = 64
"""The maximum depth of nested messages; real graphs have about ten."""


def refuse_external_data_outside(path: Path) -> None:
    """Check the paths of a file's external data before a runtime opens it.

    Raises:
        ModelError: The file cannot be read, or refers to data outside its folder.
    """
    external_files(path)


def external_files(path: Path) -> tuple[Path, ...]:
    """Return the other files that have a file's weights, sorted; they need not exist.

    Raises:
        ModelError: The file cannot be read, or refers to data outside its folder.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # Nearly every file contains its weights: only one with the key of external data is inspected.
            if content.find(_KEY.encode()) < 0:
                return ()
            names = _read_names(content)
    except (OSError, ValueError) as error:
        reason = "it is empty" if isinstance(error, ValueError) else getattr(error, "strerror", None) or str(error)
        raise ModelError(f"{path} cannot be read: {reason}", "Give an ONNX file or the name of a model.") from error
    folder = path.parent.resolve()
    found = set()
    for name in _parse_names(path) if names is None else names:
        possible = "\0" not in name and len(name) <= _MAX_NAME
        other = (folder / name if possible else folder.parent).resolve()
        if not other.is_relative_to(folder):
            raise ModelError(f"{path} refers to data outside its folder: {name[:80]!r}", "This is not allowed, for security.")
        found.add(other)
    return tuple(sorted(found))


def _read_names(content: mmap.mmap) -> list[str] | None:
    """Read the names of other files from the file's bytes: importing ``onnx`` would add a tenth of a second to every start.

    Returns:
        None if the key occurs anywhere else too, or the file is not as expected: then the parser of ``onnx`` has to decide.
    """
    try:
        names = list(_locations(content, "model", 0, len(content), _MAX_DEPTH))
    except (ValueError, LookupError, TypeError):
        return None
    return names if len(names) == len(re.findall(_KEY.encode(), content)) else None


def _locations(content: mmap.mmap, message: str, start: int, end: int, depth: int) -> Iterator[str]:
    if not depth:
        raise ValueError("the messages are nested too deeply")
    if message == "entry":
        entry = dict(fields(content, start, end))
        if text_of(content, entry[_ENTRY_KEY]) == _KEY:
            yield text_of(content, entry[_ENTRY_VALUE])
        return
    inside = _INSIDE[message]
    for number, value in fields(content, start, end):
        if number in inside:
            yield from _locations(content, inside[number], *span(value), depth - 1)


def _parse_names(path: Path) -> Iterator[str]:
    """Yield the names of other files, with the package ``onnx``."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's and onnx's errors have no common type
        raise ModelError(f"{path} is not an ONNX file", "Give an ONNX file or the name of a model.") from error
    for tensor in _tensors(model):
        yield from (entry.value for entry in tensor.external_data if entry.key == _KEY)


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of the file: initializers, attributes, subgraphs, functions, and fields of later versions."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _tensors(part)
