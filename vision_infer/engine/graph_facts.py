"""The card and the precision of a deployment graph.

They are read from the bytes of the file, node by node and without the weights, in a few milliseconds: importing ``onnx`` would
add a tenth of a second to every start.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from vision_infer.core.card import CARD_KEY, ModelCard, parse_card_json
from vision_infer.core.errors import ModelError
from vision_infer.engine.onnx_bytes import fields, span, text_of

Precision = Literal["fp32", "fp16", "bf16", "int8"]

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_HALVES: dict[int, Precision] = {10: "fp16", 16: "bf16"}
"""The precisions by ONNX's numbers of the data types."""

# The field numbers of onnx.proto, which never change: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_TYPE, _NODE_ATTRIBUTE = 1, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3
_TENSOR_TYPE, _TENSOR_NAME = 2, 8
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What can be read from a deployment graph without a runtime."""

    card: ModelCard
    precision: Precision
    """``int8`` if it quantizes, ``fp16`` or ``bf16`` if it computes in those, else ``fp32``. Weights that are only *stored* in a
    smaller type and cast when they are loaded do not count."""


def read_graph_facts(path: Path) -> GraphFacts:
    """Read a deployment graph's card, and determine its precision; the file is read again only if it changed.

    Raises:
        ModelError: The file cannot be read, is not an ONNX file, or carries no card.
    """
    try:
        return _facts(path, file_version(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "Give an ONNX file or the name of a model.") from error
    except (ValueError, IndexError, TypeError) as error:  # empty, truncated, or in another format
        raise ModelError(f"{path} is not an ONNX file", "Give an ONNX file or the name of a model.") from error


def file_version(path: Path) -> tuple[int, int, int]:
    """Return what shows that a file was written again: its inode, size and time.

    Raises:
        OSError: There is no such file.
    """
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def not_deployment_graph(path: Path, why: str) -> ModelError:
    """Return the error for an ONNX file that is not a deployment graph."""
    return ModelError(
        f"{path} is not a deployment graph ({why})", f"Create one with: vision-infer model import {path} --name NAME"
    )


def variants(path: Path) -> list[Path]:
    """Return the other precisions of ``model.onnx``: files next to it named ``model.WHAT.onnx``, such as ``model.int8.onnx``.

    Files that are not deployment graphs, or have another model or input size, do not count.
    """
    card = read_graph_facts(path).card
    found = []
    for other in sorted(path.parent.glob(f"{path.stem}.*.onnx")):
        try:
            variant = read_graph_facts(other).card
        except ModelError:
            continue
        if (variant.name, variant.task, variant.input) == (card.name, card.task, card.input):
            found.append(other)
    return found


@lru_cache(maxsize=64)
def _facts(path: Path, _: tuple[int, int, int]) -> GraphFacts:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        text, precision = _read(content)
    if text is None:
        raise not_deployment_graph(path, "it carries no card")
    return GraphFacts(parse_card_json(text, str(path)), precision)


def _read(content: mmap.mmap) -> tuple[str | None, Precision]:
    text: str | None = None
    precision: Precision | None = None
    for number, value in fields(content, 0, len(content)):
        if number == _MODEL_METADATA:
            entry = {field: text_of(content, where) for field, where in fields(content, *span(value))}
            if entry.get(_ENTRY_KEY) == CARD_KEY:
                text = entry.get(_ENTRY_VALUE, "")
        elif number == _MODEL_GRAPH:
            precision = _precision(content, *span(value))
    if precision is None:
        raise ValueError("there is no graph")
    return text, precision


def _precision(content: mmap.mmap, start: int, end: int) -> Precision:
    halves: dict[str, Precision] = {}
    """The weights in float16 or bfloat16, by name."""
    used: set[str] = set()
    """The inputs of all operators except Cast."""
    found: Precision = "fp32"
    for number, value in fields(content, start, end):
        if number == _GRAPH_INITIALIZER:
            tensor = dict(fields(content, *span(value)))
            kind = tensor.get(_TENSOR_TYPE)
            if isinstance(kind, int) and kind in _HALVES:
                halves[text_of(content, tensor[_TENSOR_NAME])] = _HALVES[kind]
        elif number == _GRAPH_NODE:
            inputs, operator, cast_to = _node(content, *span(value))
            if operator in _QUANTIZED or operator.startswith("QLinear"):
                return "int8"
            if operator == "Cast":
                found = _HALVES.get(cast_to, found)
            else:
                used.update(inputs)
    return next((kind for name, kind in halves.items() if name in used), found)


def _node(content: mmap.mmap, start: int, end: int) -> tuple[list[str], str, int]:
    """Return the names of the inputs, the operator, and the target type of a Cast."""
    inputs: list[str] = []
    operator, cast_to = "", 0
    for number, value in fields(content, start, end):
        if number == _NODE_INPUT:
            inputs.append(text_of(content, value))
        elif number == _NODE_TYPE:
            operator = text_of(content, value)
        elif number == _NODE_ATTRIBUTE:
            attribute = dict(fields(content, *span(value)))
            number_given = attribute.get(_ATTRIBUTE_INT)
            if isinstance(number_given, int) and text_of(content, attribute[_ATTRIBUTE_NAME]) == "to":
                cast_to = number_given
    return inputs, operator, cast_to
