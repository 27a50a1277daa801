"""Whether what a runtime has loaded is a deployment graph: the right inputs and outputs, whichever runtime says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vision_infer.core.card import ModelCard
from vision_infer.engine.engine import OUTPUT_NAMES
from vision_infer.engine.graph_facts import not_deployment_graph

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "int32": np.dtype(np.int32)}

OutputShapes = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""for each output its shape without the batch, and its dtype"""


class Port(NamedTuple):
    """An input or output, as a runtime describes it."""

    name: str
    dtype: str
    """``uint8``, ``float32``, …"""
    shape: tuple[int | str, ...]
    """a text where a side is not fixed"""


def check_contract(inputs: Sequence[Port], outputs: Sequence[Port], card: ModelCard, path: Path) -> OutputShapes:
    """Check the inputs and outputs that a runtime found in a file.

    Returns:
        What the engine has to have memory for.

    Raises:
        ModelError: they are not those of a deployment graph; says which one, and what it is.
    """
    wanted = ("images", "uint8", (card.input.height, card.input.width, 3))
    found = [(one.name, one.dtype, one.shape[1:]) for one in inputs]
    if found != [wanted]:
        raise not_deployment_graph(path, f"its inputs are {_told(found)}, not {_told([wanted])}")
    if isinstance(inputs[0].shape[0], int):
        raise not_deployment_graph(path, f"its batch is fixed at {inputs[0].shape[0]}")
    by_name = {one.name: one for one in outputs}
    shapes: OutputShapes = {}
    for name in OUTPUT_NAMES[card.task]:
        one = by_name.get(name)
        if one is None:
            raise not_deployment_graph(path, f"its output '{name}' is missing")
        sides = tuple(side for side in one.shape[1:] if isinstance(side, int))
        if one.dtype != ("int32" if name == "class_ids" else "float32") or len(sides) != len(one.shape) - 1:
            raise not_deployment_graph(path, f"its output '{name}' is {one.dtype} {list(one.shape)}")
        shapes[name] = (sides, DTYPES[one.dtype])
    last = shapes[OUTPUT_NAMES[card.task][-1]][0]
    if len(last) != 1 or any(shape != ((*last, 4) if name == "boxes" else last) for name, (shape, _) in shapes.items()):
        raise not_deployment_graph(
            path, f"the shapes of its outputs are { {name: shape for name, (shape, _) in shapes.items()} }"
        )
    return shapes


def _told(ports: Sequence[tuple[str, str, tuple[int | str, ...]]]) -> str:
    return ", ".join(f"{name} {dtype} {list(shape)}" for name, dtype, shape in ports) or "none"
