"""Join the bundled detector with DeepLabV3 into a model of instance masks, for the picture of the documentation.

The mask of a box is the part of the box in which DeepLab's class is that of the box. So persons that overlap are not separated.
No permissive weights of a model that separates them were found.

python -m benchmarks.masks_from_classes deeplab.onnx nanodet-masks.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose

from vision_infer.core.card import DetailKind, ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.model.graph import GraphBuilder, finish, read_card, tensor_info
from vision_infer.model.network import prepare_network

DETECTOR = Path(__file__).resolve().parents[1] / "models" / "nanodet-416" / "model.onnx"
VOC = (
    *("background", "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog"),
    *("horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv"),
)
"""The classes of DeepLab, with the detector's labels."""
SIDE = 513
"""The side of DeepLab's input, pixels."""
DETAIL: DetailKind = "masks"


def join(classes: onnx.ModelProto) -> onnx.ModelProto:
    """Return the deployment graph; objects of other classes are not detected."""
    network = prepare_network(classes, "deeplab")
    deeplab = compose.add_prefix(network.model, "deeplab/")
    taken = f"deeplab/{network.image.inside}"
    detector = onnx.load(str(DETECTOR))
    card = read_card(detector, DETECTOR.name)
    assert card is not None
    builder = GraphBuilder()
    scale = SIDE / card.input.height
    image = builder.cast("images", TensorProto.FLOAT, "masks_float")
    image = builder.add("Transpose", image, name="masks_nchw", perm=[0, 3, 1, 2])
    scales = builder.constant("masks_scales", np.array([1, 1, scale, scale], np.float32))
    image = builder.add("Resize", image, "", scales, name="masks_resized", mode="linear")
    image = builder.cast(image, network.image.dtype, "masks_image")
    before = builder.take_nodes()
    coefficients, prototypes, scores = _masks(builder, card, _logits(deeplab))
    for node in deeplab.graph.node:
        node.input[:] = [image if name == taken else name for name in node.input]
    for node in detector.graph.node:
        node.output[:] = ["vision_infer/scores_of_boxes" if name == "scores" else name for name in node.output]
    after = builder.take_nodes()
    for node in after:
        node.output[:] = [
            {coefficients: "coefficients", prototypes: "prototypes", scores: "scores"}.get(n, n) for n in node.output
        ]
    graph = detector.graph
    graph.node.extend([*before, *deeplab.graph.node, *after])
    graph.initializer.extend([*deeplab.graph.initializer, *builder.initializers])
    graph.output.append(tensor_info("coefficients", TensorProto.FLOAT, "batch", "K", "M"))
    graph.output.append(tensor_info("prototypes", TensorProto.FLOAT, "batch", "M", "h", "w"))
    about = {"head": "", "detail": DETAIL, "name": "nanodet-masks", "accuracy": (), "license": "Apache-2.0 AND MIT"}
    return finish(detector, card.model_copy(update=about), "nanodet-masks")


def _logits(deeplab: onnx.ModelProto) -> str:
    """Return the name of the scores of classes before they are enlarged to the input, [1, 21, h, w]."""
    producers = {name: node for node in deeplab.graph.node for name in node.output}
    last = producers.get(deeplab.graph.output[0].name)
    enlarged = None if last is None or last.op_type != "ArgMax" else producers.get(last.input[0])
    if enlarged is None or enlarged.op_type != "Resize":
        raise ModelError("the file does not end as DeepLabV3 of google-coral/test_data", "Convert it as the documentation says.")
    return str(enlarged.input[0])


def _masks(builder: GraphBuilder, card: ModelCard, logits: str) -> tuple[str, str, str]:
    """Return the coefficients, the prototypes and the scores."""
    two = builder.ints("masks_two", 2)
    best = builder.add_many("TopK", logits, two, name="masks_best", outputs=2, axis=1)[0]
    first, second = builder.add_many("Split", best, name="masks_best_two", outputs=2, axis=1)
    is_best = builder.add("Equal", logits, first, name="masks_is_best")
    rival = builder.add("Where", is_best, second, first, name="masks_rival")
    prototypes = builder.add("Sub", logits, rival, name="masks_margin")
    table = np.zeros((len(card.labels or ()), len(VOC)), np.float32)
    for number, label in enumerate(card.labels or ()):
        if label in VOC:
            table[number, VOC.index(label)] = 1
    rows = builder.constant("masks_of_classes", table)
    coefficients = builder.add("Gather", rows, "class_ids", name="masks_of_boxes", axis=0)
    known = builder.add(
        "Gather", builder.constant("masks_known", table.max(axis=1)), "class_ids", name="masks_known_boxes", axis=0
    )
    scores = builder.add("Mul", "vision_infer/scores_of_boxes", known, name="masks_scores")
    return coefficients, prototypes, scores


if __name__ == "__main__":
    onnx.save(join(onnx.load(sys.argv[1])), sys.argv[2])
