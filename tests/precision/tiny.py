"""A small classifier as a deployment graph, and frames for it, for tests of conversions."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.engine import HostSlot, Loan, RawResults, Ticket
from vision_infer.model.graph import finish
from vision_infer.model.model_folder import card_to_yaml
from vision_infer.precision.frames import FrameSet

SIDE = 32
CLASSES = 6
CARD = parse_card({"name": "tiny", "task": "classify", "input": {"width": SIDE, "height": SIDE}, "iou": None}, "test")


def tiny_model(scale: float = 1.0, card: ModelCard = CARD) -> onnx.ModelProto:
    """Three convolutions, the second of which has weights of very different sizes, a pooling, a prediction and a softmax.

    Args:
        scale: of what the second convolution gives.
        card: inside the graph.
    """
    chance = np.random.default_rng(3)

    def weights(name: str, *shape: int, factor: float = 1.0) -> onnx.TensorProto:
        return numpy_helper.from_array((chance.normal(0, 0.3, shape) * factor).astype(np.float32), f"network/{name}")

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], name=output, **attributes)

    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        node("Cast", ["images"], "vision_infer/float", to=TensorProto.FLOAT),
        node("Transpose", ["vision_infer/float"], "vision_infer/nchw", perm=[0, 3, 1, 2]),
        node("Mul", ["vision_infer/nchw", "vision_infer/scale"], "network/in"),
        node("Conv", ["network/in", "network/w1", "network/b1"], "network/conv1", **pads, strides=[2, 2]),
        node("Relu", ["network/conv1"], "network/relu1"),
        node("Conv", ["network/relu1", "network/w2"], "network/conv2", **pads, group=8),
        node("LeakyRelu", ["network/conv2"], "network/leaky2", alpha=0.1),
        node("Conv", ["network/leaky2", "network/w3"], "network/conv3", kernel_shape=[1, 1]),
        node("Relu", ["network/conv3"], "network/relu3"),
        node("Conv", ["network/relu3", "network/w4", "network/b4"], "network/predict", kernel_shape=[1, 1]),
        node("GlobalAveragePool", ["network/predict"], "network/pool"),
        node("Flatten", ["network/pool"], "network/logits"),
        node("Softmax", ["network/logits"], "scores", axis=1),
    ]
    nodes[2].name = "vision_infer/mul"
    nodes[-1].name = "vision_infer/softmax"
    constants = [
        numpy_helper.from_array(np.array(1 / 255, np.float32), "vision_infer/scale"),
        weights("w1", 8, 3, 3, 3),
        weights("b1", 8),
        weights("w2", 8, 1, 3, 3, factor=scale),
        weights("w3", 16, 8, 1, 1, factor=1 / scale),
        weights("w4", CLASSES, 16, 1, 1, factor=20),
        numpy_helper.from_array(np.zeros(CLASSES, np.float32), "network/b4"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", card.input.height, card.input.width, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])
    graph = helper.make_graph(nodes, "tiny", [images], [scores], constants)
    model = finish(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), card, "tiny")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "network/b4")
    bias.CopyFrom(numpy_helper.from_array(-_mean_logits(model), "network/b4"))  # so that all classes occur
    return model


def _mean_logits(model: onnx.ModelProto) -> NDArray[np.float32]:
    import onnxruntime

    told = onnx.ModelProto()
    told.CopyFrom(model)
    told.graph.output.append(onnx.ValueInfoProto(name="network/logits"))
    session = onnxruntime.InferenceSession(told.SerializeToString(), providers=["CPUExecutionProvider"])
    height, width = session.get_inputs()[0].shape[1:3]
    frames = np.stack(noise_frames(64, seed=9))[:, :height, :width]
    mean: NDArray[np.float32] = session.run(["network/logits"], {"images": frames})[0].mean(axis=0)
    return mean


def write_tiny(folder: Path, scale: float = 1.0) -> Path:
    """Write the classifier as a model and return the path of its graph."""
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "model.yaml").write_text(card_to_yaml(CARD))
    path = folder / "tiny" / "model.onnx"
    onnx.save(tiny_model(scale), path)
    return path


def noise_frames(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Return images of colored blocks."""
    chance = np.random.default_rng(seed)
    small = chance.integers(0, 256, (count, 2, 2, 3), np.uint8)
    return [np.kron(one, np.ones((SIDE // 2, SIDE // 2, 1), np.uint8)).astype(np.uint8) for one in small]


def frame_set(pixels: list[NDArray[np.uint8]]) -> FrameSet:
    """Return frames without padding."""
    size = Size(pixels[0].shape[1], pixels[0].shape[0])
    layout = letterbox(size, size, "stretch", (0, 0, 0))
    return FrameSet(pixels, (layout,) * len(pixels), tuple(f"frame {number}" for number in range(len(pixels))))


class ScriptedEngine:
    """An engine with scripted outputs for each frame, which repeat at the end."""

    name = "scripted-cpu-fp32"
    batch_sizes = (1,)
    in_flight = 1
    buffer_bytes = 0

    def __init__(self, card: ModelCard, outputs: list[dict[str, NDArray[Any]]]) -> None:
        self.card = card
        self.outputs = outputs
        self._next = 0

    @property
    def input_size(self) -> Size:
        return self.card.input_size

    def lend(self, count: int) -> Loan:
        return Loan((HostSlot(np.zeros((self.card.input.height, self.card.input.width, 3), np.uint8)),), None)

    def release(self, loan: Loan) -> None:
        pass

    def submit(self, loan: Loan) -> Ticket:
        return Ticket(loan, None)

    def collect(self, ticket: Ticket) -> RawResults:
        outputs = self.outputs[self._next % len(self.outputs)]
        self._next += 1
        return RawResults(outputs, 0, 1)

    def warm_up(self) -> None:
        pass

    def __enter__(self) -> ScriptedEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass
