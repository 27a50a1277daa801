"""What the tests of the model package share: photographs, and synthetic raw models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support.assets import photographs
from vision_infer.core.geometry import Fit, Size, letterbox

Run = Callable[[onnx.ModelProto, dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]
Fabricate = Callable[..., Path]


@pytest.fixture(scope="session")
def letterboxed() -> Callable[[int, Size, Fit, tuple[int, int, int]], NDArray[np.uint8]]:
    """Return photographs as uint8 [n, H, W, 3] RGB, fitted into an input."""
    files = sorted(photographs().glob("*.jpg"))

    def load(count: int, size: Size, fit: Fit, fill: tuple[int, int, int]) -> NDArray[np.uint8]:
        batch = np.empty((count, size.height, size.width, 3), np.uint8)
        for slot, file in zip(batch, files, strict=False):
            image = cv2.imread(str(file))
            assert image is not None
            box = letterbox(Size(image.shape[1], image.shape[0]), size, fit, fill)
            slot[:] = fill
            content = cv2.resize(image[:, :, ::-1], (box.content.width, box.content.height))
            slot[box.y : box.y + box.content.height, box.x : box.x + box.content.width] = content
        return batch

    return load


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a graph with ONNX Runtime and return its outputs by name."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    last: tuple[bytes, Any] = b"", None  # the same graph is often run several times, and takes longer to load than to run

    def call(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        nonlocal last
        graph = model.SerializeToString()
        if last[0] != graph:
            last = graph, runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        session = last[1]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    return call


def put_together(
    node: onnx.NodeProto, parts: tuple[tuple[int, str], ...], initializers: list[onnx.TensorProto], kind: Any
) -> list[onnx.NodeProto]:
    """Replace an Identity by a Split of its columns, an operator on each part, and a Concat."""
    name, source = node.output[0], node.input[0]
    initializers.append(numpy_helper.from_array(np.array([width for width, _ in parts]), f"{name}_widths"))
    pieces = [f"{name}_piece{number}" for number in range(len(parts))]
    nodes = [helper.make_node("Split", [source, f"{name}_widths"], pieces, axis=2)]
    for piece, (width, op) in zip(pieces, parts, strict=True):
        unit = np.eye(width) if op == "MatMul" else np.ones(1)
        initializers.append(numpy_helper.from_array(unit.astype(kind), f"{piece}_unit"))
        inputs = [piece] if op == "Sigmoid" else [piece, f"{piece}_unit"]
        nodes.append(helper.make_node(op, inputs, [f"{piece}_made"]))
    nodes.append(helper.make_node("Concat", [f"{piece}_made" for piece in pieces], [name], axis=2))
    return nodes


@pytest.fixture
def fabricate(tmp_path: Path) -> Fabricate:
    """Write a raw model whose outputs are given values times the mean of the normalized image.

    The batch is fixed at 1 by a Reshape, as in real exports. ``parts`` are the column groups of an output: the
    number of columns and their operator, MatMul (with an identity matrix), Sigmoid or Mul.
    """

    def make(
        outputs: dict[str, NDArray[Any]],
        size: tuple[int | str, int | str] = (64, 64),
        *,
        file: str = "raw.onnx",
        opset: int = 13,
        batch: int | str = 1,
        sigmoid: tuple[str, ...] = (),
        parts: dict[str, tuple[tuple[int, str], ...]] | None = None,
        extra: tuple[onnx.NodeProto, ...] = (),
        extra_inputs: tuple[onnx.ValueInfoProto, ...] = (),
        half: bool = False,
    ) -> Path:
        kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        float_type = np.float16 if half else np.float32
        nodes = [helper.make_node("ReduceMean", ["images"], ["mean4"], axes=[1, 2, 3], keepdims=1)]
        nodes.append(helper.make_node("Reshape", ["mean4", "ones"], ["mean"]))
        initializers = [numpy_helper.from_array(np.array([1, 1, 1]), "ones"), numpy_helper.from_array(np.array([1]), "axis")]
        infos = []
        for name, values in outputs.items():
            integer = np.issubdtype(values.dtype, np.integer)
            initializers.append(numpy_helper.from_array(values.astype(float_type)[None], f"{name}_values"))
            steps: list[tuple[str, list[str], dict[str, Any]]] = [("Mul", [f"{name}_values", "mean"], {})]
            if values.ndim == 1:
                steps = [("Squeeze", ["mean", "axis"], {}), ("Mul", [f"{name}_values", f"{name}_0"], {})]
            if name in sigmoid:
                steps.append(("Sigmoid", [f"{name}_{len(steps) - 1}"], {}))
            if name in (parts or {}):
                steps.append(("Identity", [f"{name}_{len(steps) - 1}"], {}))
            if integer:
                steps.append(("Cast", [f"{name}_{len(steps) - 1}"], {"to": TensorProto.INT64}))
            for number, (op, inputs, attributes) in enumerate(steps):
                made = name if number == len(steps) - 1 else f"{name}_{number}"
                nodes.append(helper.make_node(op, inputs, [made], **attributes))
            if name in (parts or {}):
                nodes[-1:] = put_together(nodes[-1], (parts or {})[name], initializers, float_type)
            infos.append(helper.make_tensor_value_info(name, TensorProto.INT64 if integer else kind, [batch, *values.shape]))
        image = helper.make_tensor_value_info("images", kind, [batch, 3, *size])
        graph = helper.make_graph([*nodes, *extra], "raw", [image, *extra_inputs], infos, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        path = tmp_path / file
        onnx.save(model, path)
        return path

    return make
