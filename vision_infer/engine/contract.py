"""The contract of deployment graphs: checks the inputs and outputs that a runtime reports for a loaded file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vision_infer.core.card import ModelCard
from vision_infer.engine.graph_facts import not_deployment_graph

DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in ("float32", "int32", "uint8")}
_KINDS = {"class_ids": "int32", "classes": "uint8", "probabilities": "uint8"}
"""The types of elements other than float32, by output."""

OutputShapes = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""For each output its shape without the batch, and its dtype."""


class Port(NamedTuple):
    """An input or output, as a runtime describes it."""

    name: str
    dtype: str
    """The type of its elements: ``uint8``, ``float32``, …"""
    shape: tuple[int | str, ...]
    """The lengths of its axes; a text for a dynamic one."""


def check_contract(inputs: Sequence[Port], outputs: Sequence[Port], card: ModelCard, path: Path) -> OutputShapes:
    """Check the inputs and outputs of a file; return the outputs that the engine needs memory for.

    Raises:
        ModelError: They are not those of a deployment graph; the message names the first wrong one.
    """
    wanted = ("images", "uint8", (card.input.height, card.input.width, 3))
    found = [(port.name, port.dtype, port.shape[1:]) for port in inputs]
    if found != [wanted]:
        raise not_deployment_graph(path, f"its inputs are {_describe(found)}, not {_describe([wanted])}")
    if isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] != card.max_batch:
        raise not_deployment_graph(path, f"its batch is fixed at {inputs[0].shape[0]}")
    by_name = {port.name: port for port in outputs}
    shapes: OutputShapes = {}
    for name in card.outputs:
        port = by_name.get(name)
        if port is None:
            raise not_deployment_graph(path, f"its output '{name}' is missing")
        sides = tuple(side for side in port.shape[1:] if isinstance(side, int))
        if port.dtype != _KINDS.get(name, "float32") or len(sides) != len(port.shape) - 1:
            raise not_deployment_graph(path, f"its output '{name}' is {port.dtype} {list(port.shape)}")
        shapes[name] = (sides, DTYPES[port.dtype])
    found_shapes = {name: shape for name, (shape, _) in shapes.items()}
    if not _agree(found_shapes, card):
        raise not_deployment_graph(path, f"the shapes of its outputs are {found_shapes}")
    return shapes


def _agree(shapes: dict[str, tuple[int, ...]], card: ModelCard) -> bool:
    """Return whether the shapes, without the batch, fit each other and the card."""
    if card.task == "segment" or card.unclip is not None:
        return all(len(shape) == 2 for shape in shapes.values())
    first = shapes.get("scores", shapes.get("embedding", ()))
    prototypes = shapes.get("prototypes", (0, 0, 0))
    points = 0 if card.keypoints is None else len(card.keypoints.names)
    if card.task == "keypoints":
        return shapes["keypoints"] == (1, points, 3)
    ends = {"boxes": (4,), "rotated_boxes": (5,), "keypoints": (points, 3), "coefficients": prototypes[:1]}
    wanted = {name: first + ends.get(name, ()) for name in shapes} | {"prototypes": prototypes}
    return len(first) == 1 and len(prototypes) == 3 and all(shape == wanted[name] for name, shape in shapes.items())


def _describe(ports: Sequence[tuple[str, str, tuple[int | str, ...]]]) -> str:
    return ", ".join(f"{name} {dtype} {list(shape)}" for name, dtype, shape in ports) or "none"
