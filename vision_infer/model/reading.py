"""Safe reading of ONNX files: other files are refused, and external data must be in the file's own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import external_data_helper

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.model.graph import iter_graphs, read_card

_MAX_LOCATION = 255
"""The maximum length of the name of an external file, as file systems have it."""


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and its external data, from its own folder only.

    Raises:
        ModelError: The file is missing, incomplete or not ONNX, or its external data is outside the folder, missing or too
            short.
    """
    where = path.name
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}", "Check the path.") from error
    except DecodeError as error:
        message = f"{where}: not an ONNX file, or an incomplete one"
        raise ModelError(message, "Give a complete .onnx file. Export models in other formats first.") from error
    if not model.graph.node or not model.opset_import:  # protobuf accepts empty files and some other formats
        raise ModelError(f"{where}: not an ONNX file, or one without a graph", "Give a .onnx file.")
    _check_whole(model, where)
    # A location outside the folder could copy any file of this machine into the model.
    external = [tensor for tensor in _tensors(model) if external_data_helper.uses_external_data(tensor)]
    for tensor in external:
        _check_location(path.parent, tensor, where)
    if external:
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            hint = "Keep the data file next to the .onnx file."
            raise ModelError(f"{where}: the external data cannot be read: {error}", hint) from error
    return model


def read_deployment_card(file: Path) -> ModelCard:
    """Return the card inside a deployment graph.

    Raises:
        ModelError: The file cannot be read, or has no card.
    """
    card = read_card(read_onnx(file), str(file))
    if card is None:
        hint = f"Import it with 'vision-infer model import {file} --name NAME'."
        raise ModelError(f"{file}: not a deployment graph", hint)
    return card


def _check_whole(model: onnx.ModelProto, where: str) -> None:
    """Check that the outputs exist: protobuf accepts a file that ends between two of its parts, before the outputs."""
    made = {name for node in model.graph.node for name in node.output}
    made |= {info.name for info in model.graph.input} | {tensor.name for tensor in model.graph.initializer}
    missing = [info.name for info in model.graph.output if info.name not in made]
    if not model.graph.input or not model.graph.output or missing:
        what = f"no node computes its output '{missing[0]}'" if missing else "it has no inputs or no outputs"
        raise ModelError(f"{where}: the file is incomplete: {what}", "Copy or export it again.")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in iter_graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    nodes = [node for graph in iter_graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _check_location(folder: Path, tensor: onnx.TensorProto, where: str) -> None:
    location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
    windows = PureWindowsPath(location)
    escapes = not location or windows.is_absolute() or windows.drive or windows.root or ".." in windows.parts
    escapes = escapes or "\0" in location or len(location) > _MAX_LOCATION  # impossible names would fail later
    if escapes or not (folder / location).resolve().is_relative_to(folder.resolve()):
        message = f"{where}: tensor '{tensor.name}' has data outside the file's folder ({location[:80]!r})"
        raise ModelError(message, "Keep external data next to the .onnx file.")
