"""Small raw models with random weights, with the graphs of common exporters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.building import CANDIDATES, join
from vision_infer.model.network import ScoreKind, prepare_network
from vision_infer.model.reading import read_onnx

SIZE = Size(160, 96)
STRIDES = (8, 16, 32)


class Network:
    """A graph under construction.

    Args:
        size: of the input.
        batch: of the input; a number is also written into Reshape nodes, as exporters do that fix it.
        seed: of the weights.
    """

    def __init__(self, size: Size = SIZE, batch: int | str = 1, seed: int = 0, open_size: bool = False) -> None:
        self.size, self.batch = size, batch
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)
        self.first = batch if isinstance(batch, int) else 0
        """The batch for Reshape; 0: copied from the input."""
        self.sides: tuple[int | str, int | str] = ("height", "width") if open_size else (size.height, size.width)

    def constant(self, values: Any) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def floats(self, values: Any) -> str:
        return self.constant(np.asarray(values, np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"t{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"{kind}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def reshape(self, tensor: str, *shape: int) -> str:
        return str(self.op("Reshape", tensor, self.constant(np.array(shape))))

    def conv(self, tensor: str, inputs: int, outputs: int, stride: int = 1, scale: float = 1.0) -> str:
        side = 3 if stride > 1 else 1
        weights = self.random.normal(0, scale * math.sqrt(2 / (inputs * side * side)), (outputs, inputs, side, side))
        bias = self.random.normal(0, 0.5 * scale, outputs)
        pads = [side // 2] * 4
        return str(self.op("Conv", tensor, self.floats(weights), self.floats(bias), pads=pads, strides=[stride, stride]))

    def linear(self, tensor: str, inputs: int, outputs: int) -> str:
        product = self.op("MatMul", tensor, self.floats(self.random.normal(0, math.sqrt(2 / inputs), (inputs, outputs))))
        return str(self.op("Add", product, self.floats(self.random.normal(0, 0.5, outputs))))

    def features(self, channels: int = 16) -> list[str]:
        """Feature maps of strides 8, 16 and 32; the coarsest reaches the middle one by a Resize to a fixed size, as in a neck."""
        tensor, inputs, maps = "images", 3, []
        for level in range(5):
            tensor, inputs = self.op("LeakyRelu", self.conv(tensor, inputs, channels, 2), alpha=0.1), channels
            if level >= 2:
                maps.append(tensor)
        if isinstance(self.sides[0], int):
            sizes = self.constant(np.array([self.first or 1, channels, *self.grid(16)]))
            if self.first:
                grown = self.op("Resize", maps[2], "", "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric")
                maps[1] = self.op("Add", maps[1], grown)
        return maps

    def grid(self, stride: int) -> tuple[int, int]:
        return math.ceil(self.size.height / stride), math.ceil(self.size.width / stride)

    def cells(self, offset: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the positions (x, y) and strides of all cells, [N, 2] and [N, 1]."""
        places, steps = [], []
        for stride in STRIDES:
            rows, columns = np.indices(self.grid(stride))
            places.append(np.stack([columns.ravel(), rows.ravel()], axis=1) + offset)
            steps.append(np.full((rows.size, 1), stride))
        return np.concatenate(places).astype(np.float32), np.concatenate(steps).astype(np.float32)

    def computed_cells(self, maps: list[str]) -> tuple[str, str]:
        """The same cells, offset by a half, as exporters compute them from the shapes of the maps: [1, 2, N] and [1, 1, N]."""
        places, steps = [], []
        for tensor, stride in zip(maps, STRIDES, strict=True):
            shape = self.op("Shape", tensor)
            high, wide = (self.op("Gather", shape, self.constant(np.array(axis)), axis=0) for axis in (2, 3))
            both = self.op("Concat", *(self.op("Unsqueeze", one, self.constant(np.array([0]))) for one in (high, wide)), axis=0)
            sides = []
            for count, column in ((wide, [1, -1]), (high, [-1, 1])):
                numbers = self.op("Range", self.floats(0), self.op("Cast", count, to=TensorProto.FLOAT), self.floats(1))
                line = self.reshape(self.op("Add", numbers, self.floats(0.5)), *column)
                sides.append(self.reshape(self.op("Expand", line, both), 1, 1, -1))
            places.append(self.op("Concat", *sides, axis=1))
            filled = self.op("ConstantOfShape", both, value=numpy_helper.from_array(np.array([stride], np.float32)))
            steps.append(self.reshape(filled, 1, 1, -1))
        return self.op("Concat", *places, axis=2), self.op("Concat", *steps, axis=2)

    def save(
        self,
        path: Path,
        outputs: dict[str, str],
        opset: int = 17,
        metadata: dict[str, str] | None = None,
        kinds: dict[str, int] | None = None,
    ) -> Path:
        """Write the graph; the shapes of the outputs are inferred, and those without an entry in ``kinds`` are float32."""
        infos = []
        for name, tensor in outputs.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [name], name=f"out_{name}"))
            infos.append(helper.make_empty_tensor_value_info(name))
            infos[-1].type.tensor_type.elem_type = (kinds or {}).get(name, TensorProto.FLOAT)
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [self.batch, 3, *self.sides])
        graph = helper.make_graph(self.nodes, "raw", [images], infos, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        helper.set_model_props(model, metadata or {})
        onnx.save(model, path)
        return path


def yolov8(
    path: Path,
    classes: int = 7,
    transposed: bool = False,
    more: Literal["", "pose", "obb", "segment"] = "",
    chosen: bool = False,
    metadata: dict[str, str] | None = None,
    points: int = 17,
    keypoint_values: int = 3,
    prototypes: int = 32,
    **options: Any,
) -> Path:
    """Decoded distributions of distances, classes after a sigmoid; optionally keypoints, an angle, or masks.

    ``chosen``: the model selects its boxes itself.
    """
    net = Network(**options)
    levels = []
    maps = net.features()
    for tensor in maps:
        both = net.op("Concat", net.conv(tensor, 16, 64, scale=2.0), net.conv(tensor, 16, classes), axis=1)
        levels.append(net.reshape(both, net.first, 64 + classes, -1))
    rows = net.op("Concat", *levels, axis=2)
    bins, scores = net.op("Split", rows, net.constant(np.array([64, classes])), outputs=2, axis=1)
    places, steps = net.cells(0.5)
    count = -1 if isinstance(net.sides[0], str) else len(places)
    share = net.op("Transpose", net.reshape(bins, net.first, 4, 16, count), perm=[0, 2, 1, 3])
    share = net.op("Softmax", share, axis=1)
    weights = net.floats(np.arange(16).reshape(1, 16, 1, 1))
    distances = net.reshape(net.op("Conv", share, weights), net.first, 4, count)
    near, far = net.op("Split", distances, net.constant(np.array([2, 2])), outputs=2, axis=1)
    anchors, strides = net.floats(places.T[None]), net.floats(steps.T[None])
    if count == -1:
        anchors, strides = net.computed_cells(maps)
    low, high = net.op("Sub", anchors, near), net.op("Add", anchors, far)
    center = net.op("Div", net.op("Add", low, high), net.floats(2))
    box = net.op("Mul", net.op("Concat", center, net.op("Sub", high, low), axis=1), strides)
    parts, outputs = [box, net.op("Sigmoid", scores)], {}
    behind = {"pose": keypoint_values * points, "obb": 1, "segment": 32}.get(more, 0)
    if behind:
        extra = [net.reshape(net.conv(tensor, 16, behind), net.first, behind, -1) for tensor in maps]
        values = net.op("Concat", *extra, axis=2)
        if more == "pose":
            values = _keypoints(net, values, points, keypoint_values, anchors, strides, count)
        elif more == "obb":
            values = net.op("Mul", net.op("Sub", net.op("Sigmoid", values), net.floats(0.25)), net.floats(math.pi))
        parts.append(values)
    if more == "segment" and prototypes:
        outputs["output1"] = net.conv(maps[0], 16, prototypes)
    output = net.op("Concat", *parts, axis=1)
    if transposed or chosen:
        output = net.op("Transpose", output, perm=[0, 2, 1])
    if chosen:
        output = _chosen(net, output, classes, behind, corners=more != "obb")
    return net.save(path, {"output0": output, **outputs}, metadata=metadata)


def _keypoints(net: Network, values: str, points: int, each: int, anchors: str, strides: str, count: int) -> str:
    """Decoded positions, and scores after a sigmoid if there are three values each, [B, points * each, N]."""
    rows, score = net.reshape(values, net.first, points, each, count), []
    if each == 3:
        rows, last = net.op("Split", rows, net.constant(np.array([2, 1])), outputs=2, axis=2)
        score = [net.op("Sigmoid", last)]
    offset = net.op("Add", net.op("Mul", rows, net.floats(2)), net.op("Sub", anchors, net.floats(0.5)))
    both = net.op("Concat", net.op("Mul", offset, strides), *score, axis=2)
    return net.reshape(both, net.first, each * points, count)


def _chosen(net: Network, rows: str, classes: int, behind: int, corners: bool, count: int = 20) -> str:
    """Select the best anchors, with box, best score, class, and the values behind them: [B, count, 6 + behind]."""
    widths = [4, classes, behind] if behind else [4, classes]
    box, scores, *values = net.op("Split", rows, net.constant(np.array(widths)), outputs=len(widths), axis=2)
    best = net.op("ReduceMax", scores, axes=[2], keepdims=1)
    kind = net.op("Cast", net.op("ArgMax", scores, axis=2, keepdims=1), to=TensorProto.FLOAT)
    if corners:
        xy, wh = net.op("Split", box, net.constant(np.array([2, 2])), outputs=2, axis=2)
        half = net.op("Div", wh, net.floats(2))
        box = net.op("Concat", net.op("Sub", xy, half), net.op("Add", xy, half), axis=2)
    _, top = net.op("TopK", best, net.constant(np.array([count])), outputs=2, axis=1)
    taken = [
        net.op("GatherElements", part, net.op("Tile", top, net.constant(np.array([1, 1, width]))), axis=1)
        for part, width in zip((box, best, kind, *values), (4, 1, 1, behind), strict=False)
    ]
    return str(net.op("Concat", *taken, axis=2))


def yolov5(path: Path, classes: int = 7, maps: bool = False, **options: Any) -> Path:
    """Three anchors per cell, all values after a sigmoid, decoded boxes; optionally the map of each stride."""
    net = Network(**options)
    width, levels, raw = 5 + classes, [], {}
    for tensor, stride in zip(net.features(), STRIDES, strict=True):
        high, wide = net.grid(stride)
        values = net.reshape(net.conv(tensor, 16, 3 * width), net.first, 3, width, high, wide)
        values = raw[f"map{stride}"] = net.op("Transpose", values, perm=[0, 1, 3, 4, 2])
        values = net.op("Sigmoid", values)
        xy, wh, rest = net.op("Split", values, net.constant(np.array([2, 2, 1 + classes])), outputs=3, axis=4)
        rows, columns = np.indices((high, wide))
        cells = np.stack([columns, rows], axis=-1)[None, None] - 0.5
        xy = net.op("Mul", net.op("Add", net.op("Mul", xy, net.floats(2)), net.floats(cells)), net.floats(stride))
        sides = np.array([[1, 1], [1, 2], [2, 1]]).reshape(1, 3, 1, 1, 2) * stride * 2
        wh = net.op("Mul", net.op("Pow", net.op("Mul", wh, net.floats(2)), net.floats(2)), net.floats(sides))
        levels.append(net.reshape(net.op("Concat", xy, wh, rest, axis=4), net.first, 3 * high * wide, width))
    return net.save(path, {"output0": net.op("Concat", *levels, axis=1), **(raw if maps else {})})


def yolox(path: Path, classes: int = 7, decoded: bool = False, **options: Any) -> Path:
    """Raw boxes, or boxes decoded with cells and an exponential."""
    net = Network(**options)
    levels = []
    for tensor in net.features():
        scores = [net.op("Sigmoid", net.conv(tensor, 16, width)) for width in (1, classes)]
        values = net.op("Concat", net.conv(tensor, 16, 4, scale=0.3), *scores, axis=1)
        levels.append(net.reshape(values, net.first, 5 + classes, -1))
    output = net.op("Transpose", net.op("Concat", *levels, axis=2), perm=[0, 2, 1])
    if decoded:
        places, steps = net.cells(0)
        xy, wh, rest = net.op("Split", output, net.constant(np.array([2, 2, 1 + classes])), outputs=3, axis=2)
        xy = net.op("Mul", net.op("Add", xy, net.floats(places[None])), net.floats(steps[None]))
        wh = net.op("Mul", net.op("Exp", wh), net.floats(steps[None]))
        output = net.op("Concat", xy, wh, rest, axis=2)
    return net.save(path, {"output": output})


def nanodet_plus(path: Path, classes: int = 7, bins: int = 8, sigmoid: bool = True, **options: Any) -> Path:
    """One output for all strides: scores, then distributions, of one convolution."""
    net = Network(**options)
    levels = []
    for tensor in net.features():
        values = net.conv(tensor, 16, classes + 4 * bins)
        if sigmoid:
            scores, sides = net.op("Split", values, net.constant(np.array([classes, 4 * bins])), outputs=2, axis=1)
            values = net.op("Concat", net.op("Sigmoid", scores), sides, axis=1)
        levels.append(net.reshape(values, net.first, classes + 4 * bins, -1))
    return net.save(path, {"output": net.op("Transpose", net.op("Concat", *levels, axis=2), perm=[0, 2, 1])})


def detr(path: Path, columns: int = 7, end: str = "", hidden: bool = False, masks: int = 0, **options: Any) -> Path:
    """Queries with class scores (logits, or after ``end``) and boxes as fractions of the input, after a sigmoid.

    ``masks``: the number of masks, one for each query in real models.
    """
    net = Network(**options)
    rows = net.op("Transpose", net.reshape(net.features()[1], net.first, 16, -1), perm=[0, 2, 1])
    rows = net.op("Relu", net.linear(rows, 16, 32))
    scores = net.linear(rows, 32, columns)
    if end:
        scores = net.op(end, scores, **({"axis": 2} if end == "Softmax" else {}))
    outputs = {"logits": scores, "pred_boxes": net.op("Sigmoid", net.linear(rows, 32, 4))}
    if masks:
        outputs["pred_masks"] = net.conv(net.features()[0], 16, masks)
    return net.save(path, {**outputs, "last_hidden_state": rows} if hidden else outputs)


def vector(path: Path, width: int = 10, end: str = "", name: str = "output", spatial: bool = False, **options: Any) -> Path:
    """A vector for each image, after a Softmax, a Sigmoid, or a division by its length."""
    net = Network(**options)
    pooled = net.op("GlobalAveragePool", net.features()[2])
    values = net.conv(pooled, 16, width) if spatial else net.linear(net.op("Flatten", pooled, axis=1), 16, width)
    if end in ("Softmax", "LogSoftmax"):
        values = net.op(end, values, axis=1)
    elif end == "Div":
        values = net.op("Div", values, net.op("ReduceL2", values, axes=[1], keepdims=1))
    elif end:
        values = net.op(end, values)
    return net.save(path, {name: values})


def semantic(path: Path, classes: int = 7, last: bool = False, aux: bool = False, chosen: bool = False, **options: Any) -> Path:
    """Scores of classes for each pixel of a map of stride 8; ``last``: the classes are the last axis, as in TensorFlow.

    ``chosen``: the numbers of the best classes instead.
    """
    net = Network(**options)
    maps = net.features()
    scores = net.conv(maps[0], 16, classes)
    if chosen:
        best = net.op("Cast", net.op("ArgMax", scores, axis=1, keepdims=0), to=TensorProto.INT32)
        return net.save(path, {"out": best}, kinds={"out": TensorProto.INT32})
    outputs = {"out": net.op("Transpose", scores, perm=[0, 2, 3, 1]) if last else scores}
    return net.save(path, outputs | ({"aux": net.conv(maps[0], 16, classes)} if aux else {}))


def dbnet(path: Path, deconvolutions: int = 2, **options: Any) -> Path:
    """A probability for each pixel of a map of half of the input: the end of DBNet with ``deconvolutions`` = 2."""
    net = Network(**options)
    tensor = net.features()[0]
    for inputs, outputs in ((16, 8), (8, 1))[-deconvolutions:] if deconvolutions else ():
        tensor = tensor if inputs == 16 or deconvolutions == 2 else net.conv(tensor, 16, 8)
        weight = net.floats(np.random.default_rng(inputs).normal(0, 0.5, (inputs, outputs, 2, 2)))
        tensor = net.op("ConvTranspose", tensor, weight, strides=[2, 2])
    if not deconvolutions:
        tensor = net.conv(tensor, 16, 1)
    return net.save(path, {"out": net.op("Sigmoid", tensor)})


def rtmo(path: Path, points: int = 17, dynamic: bool = False, **options: Any) -> Path:
    """Boxes with a score, and keypoints; ``dynamic``: only those with a score above 0.5, as NMS inside the model leaves them."""
    net = Network(**options)
    rows = net.op("Transpose", net.reshape(net.features()[1], net.first, 16, -1), perm=[0, 2, 1])
    score = net.op("Sigmoid", net.linear(rows, 16, 1))
    corners = net.op("Mul", net.op("Sigmoid", net.linear(rows, 16, 4)), net.floats([160, 96, 160, 96]))
    values = net.op("Sigmoid", net.linear(rows, 16, 3 * points))
    values = net.op("Mul", values, net.floats(np.tile([160, 96, 1], points)))
    values = net.reshape(values, net.first, math.prod(net.grid(16)), points, 3)
    outputs = {"dets": net.op("Concat", corners, score, axis=2), "keypoints": values}
    if dynamic:
        above = net.op("Greater", net.reshape(score, -1), net.floats(0.5))
        kept = net.reshape(net.op("NonZero", above), -1)
        outputs = {name: net.op("Gather", tensor, kept, axis=1) for name, tensor in outputs.items()}
    return net.save(path, outputs)


def simcc(path: Path, points: int = 17, steps: int = 2, **options: Any) -> Path:
    """Scores of ``steps`` positions for each column and row of pixels, of the keypoints of one object."""
    net = Network(**options)
    cells = math.prod(net.grid(32))
    rows = net.reshape(net.conv(net.features()[2], 16, points), net.first, points, cells)
    sides = {"simcc_x": net.size.width, "simcc_y": net.size.height}
    return net.save(path, {name: net.op("Sigmoid", net.linear(rows, cells, steps * side)) for name, side in sides.items()})


def movenet(path: Path, points: int = 17, **options: Any) -> Path:
    """The keypoints of one person: y and x as fractions of the input, and a score."""
    net = Network(**options)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    values = net.op("Sigmoid", net.linear(pooled, 16, 3 * points))
    return net.save(path, {"output_0": net.reshape(values, net.first, 1, points, 3)})


def integers(path: Path, kind: int = TensorProto.INT32) -> Path:
    """Give a file an input of integers, as quantized models have them."""
    model = onnx.load(path)
    (info,) = model.graph.input
    for node in model.graph.node:
        node.input[:] = ["floats" if name == info.name else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Cast", [info.name], ["floats"], to=TensorProto.FLOAT, name="floats"))
    info.type.tensor_type.elem_type = kind
    onnx.save(model, path)
    return path


def channels_last(path: Path) -> Path:
    """Give a file an input [N, H, W, 3], as TensorFlow's exporters do."""
    model = onnx.load(path)
    (info,) = model.graph.input
    batch, *_ = info.type.tensor_type.shape.dim
    first = batch.dim_param or batch.dim_value
    height, width = (dim.dim_value for dim in info.type.tensor_type.shape.dim[2:])
    for node in model.graph.node:
        node.input[:] = ["channels_first" if name == info.name else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Transpose", [info.name], ["channels_first"], perm=[0, 3, 1, 2], name="first"))
    info.CopyFrom(helper.make_tensor_value_info(info.name, TensorProto.FLOAT, [first, height, width, 3]))
    onnx.save(model, path)
    return path


def deployment_graph(
    path: Path, card: ModelCard, candidates: int = CANDIDATES, scores: ScoreKind | None = None
) -> onnx.ModelProto:
    """Build the deployment graph of a raw model."""
    return join(prepare_network(read_onnx(path), path.name, card.input_size, scores), card, candidates)[0]
