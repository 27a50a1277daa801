"""An ONNX file may name other files that hold its weights; those have to lie in its own folder."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision_infer.core.errors import ModelError

if TYPE_CHECKING:
    import onnx


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
            # Nearly every file has its weights inside: only one with the key of external data is parsed.
            if content.find(b"location") < 0:
                return ()
    except (OSError, ValueError) as error:
        reason = "it is empty" if isinstance(error, ValueError) else getattr(error, "strerror", None) or str(error)
        raise ModelError(f"{path} cannot be read: {reason}", "give an ONNX file or the name of a model") from error
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's and onnx's errors have no common type
        raise ModelError(f"{path} is not an ONNX file", "give an ONNX file or the name of a model") from error
    folder = path.parent.resolve()
    found = set()
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key != "location":
                continue
            other = (folder / entry.value).resolve()
            if not other.is_relative_to(folder):
                raise ModelError(f"{path} wants data outside its folder: {entry.value!r}", "refused for safety")
            found.add(other)
    return tuple(sorted(found))


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
