"""Models in three precisions, and their plans: each is built once in a session and used by several tests."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import onnx
import pytest

from tests.model.export.smallest import Kind, deployment_graph
from tests.support.assets import raw_model
from tests.support.media import ROOT
from vision_infer.core.geometry import Size
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.tensorrt.api import Api, load_api
from vision_infer.engine.tensorrt.build_progress import BuildProgress
from vision_infer.engine.tensorrt.compile import CompiledPlan, PlanOptions, compile_plan
from vision_infer.engine.tensorrt.network import parse_network
from vision_infer.engine.tensorrt.target import GpuTarget
from vision_infer.model.export.exporting import ExportRequest, export_model
from vision_infer.model.export.families import find_family
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.precision.quantization.fp16 import to_half
from vision_infer.precision.quantization.int8 import Int8Recipe, calibrated_tensors, quantize, simplify
from vision_infer.precision.quantization.ranges import collect_activations

Name = str
"""One of :data:`NAMES`, or a family of :mod:`vision_infer.model.export.families`."""
Precision = Literal["fp32", "fp16", "int8"]
NAMES: tuple[Name, ...] = ("nanodet", "yolox", "detr", "detector", "classifier", "embedder")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
SM_89 = GpuTarget(("sm_89",))
OPTIONS = PlanOptions((1, 2, 4))


class Layer(NamedTuple):
    """A layer of a parsed network."""

    kind: str
    """The kind, as TensorRT names it."""
    inputs: tuple[str, ...]
    """The dtypes of its inputs."""
    outputs: tuple[str, ...]
    """The dtypes of its outputs."""
    readers: tuple[str, ...]
    """The kinds of the layers that read its outputs."""


@cache
def folder() -> Path:
    """Return the folder of this session's graphs."""
    made = Path(tempfile.mkdtemp(prefix="tensorrt-graphs-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def api() -> Api:
    """Return TensorRT-RTX; skip the test if it is not installed."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    return load_api("tensorrt-rtx")


@cache
def graph(name: Name, precision: Precision) -> Path:
    """Return a deployment graph. INT8 is calibrated on noise: the tests check its layers, not its results."""
    source = _fp32(name)
    if precision == "fp32":
        return source
    simple = simplified(name)
    if precision == "fp16":
        model = to_half(simple, frozenset(), name).model
    else:
        size = read_graph_facts(source).card.input_size
        frames = np.random.default_rng(0).integers(0, 256, (1, size.height, size.width, 3), dtype=np.uint8)
        found = collect_activations(simple, calibrated_tensors(simple), frames, name)
        ranges = {tensor: (one.low, one.high) for tensor, one in found.items()}
        model = quantize(simple, ranges, Int8Recipe("tensorrt"), name)
    path = folder() / f"{name}.{precision}.onnx"
    onnx.save(model, str(path))
    return path


@cache
def simplified(name: Name) -> onnx.ModelProto:
    return simplify(onnx.load(str(_fp32(name))), name)


@cache
def _fp32(name: Name) -> Path:
    if name == "nanodet":
        return ROOT / "models" / "nanodet-416" / "model.onnx"
    if name in ("yolox", "detr"):
        return import_model(ImportRequest(raw_model(name), name, model_dir=folder()))
    if name in ("detector", "classifier", "embedder"):
        return deployment_graph(cast("Kind", name))
    return _exported(name)


def _exported(name: str) -> Path:
    """Export the smallest member of a family, with random weights, at its usual input size, at most about 320 x 320."""
    _, family, variant = find_family(name)
    size, side = family.input_size(variant), 320 // family.multiple * family.multiple
    size = size if size.width <= 320 else Size(side, side)
    return export_model(
        ExportRequest(name, name, folder(), variant, inputs=(size,), prompts=("dog",) * family.prompts),
        family,
        lambda _: None,
        lambda *_: [],
    )


@cache
def compiled(name: Name, precision: Precision) -> tuple[CompiledPlan, tuple[BuildProgress, ...]]:
    """Return a plan for sm_89, and the progress reports of its build."""
    reports: list[BuildProgress] = []
    return compile_plan(graph(name, precision), api(), SM_89, OPTIONS, report=reports.append), tuple(reports)


@cache
def layers(name: Name, precision: Precision) -> tuple[Layer, ...]:
    """Return the layers of a graph, as TensorRT-RTX parses it."""
    path = graph(name, precision)
    parsed = parse_network(api(), path, read_graph_facts(path).card)
    found = [parsed.network.get_layer(index) for index in range(parsed.network.num_layers)]

    def inputs(layer: Any) -> list[Any]:
        return [tensor for index in range(layer.num_inputs) if (tensor := layer.get_input(index)) is not None]

    def outputs(layer: Any) -> list[Any]:
        return [layer.get_output(index) for index in range(layer.num_outputs)]

    def dtypes(tensors: list[Any]) -> tuple[str, ...]:
        return tuple(tensor.dtype.name.lower() for tensor in tensors)

    readers: dict[str, list[str]] = {}
    for layer in found:
        for tensor in inputs(layer):
            readers.setdefault(tensor.name, []).append(layer.type.name)
    return tuple(
        Layer(
            layer.type.name,
            dtypes(inputs(layer)),
            dtypes(outputs(layer)),
            tuple(kind for tensor in outputs(layer) for kind in readers.get(tensor.name, ())),
        )
        for layer in found
    )
