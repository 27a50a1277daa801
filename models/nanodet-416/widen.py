"""Build ``model-256x416.onnx``, the bundled model for wide images, from ``model.onnx``.

    python models/nanodet-416/widen.py            write it; necessary after each change of model.onnx
    python models/nanodet-416/widen.py --check    write nothing; compare with the existing file

The model is fully convolutional: the part between pre-processing and head is extracted and converted again with the other input
size. The new file reads its weights from ``model.onnx``.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from shared_weights import share_weights

from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.geometry import Size
from vision_infer.model.building import CANDIDATES, join
from vision_infer.model.catalog import GRAPH_FILE, graph_file
from vision_infer.model.fp16_weights import store_weights_fp16
from vision_infer.model.graph import PREFIX, opset_of
from vision_infer.model.network import NETWORK_PREFIX, prepare_network

HERE = Path(__file__).resolve().parent
WIDE = Size(416, 256)  # for 16:9 images, and divisible by all strides
LARGEST = 200_000  # bytes, without its weights


def raw_network(deployed: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Return the raw model inside a deployment graph, with its weights in FP32.

    Args:
        deployed: The deployment graph, which is not changed.
        card: The card of the graph.
    """
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in deployed.graph.initializer}
    ours = [node for node in deployed.graph.node if node.name.startswith(PREFIX)]
    for node in ours:
        if node.op_type == "Cast" and node.input[0] in weights:  # stored as FP16
            weights[node.output[0]] = weights[node.input[0]].astype(np.float32)
    nodes = []
    for node in deployed.graph.node:
        if not node.name.startswith(PREFIX):
            nodes.append(onnx.NodeProto())
            nodes[-1].CopyFrom(node)
    read = dict.fromkeys(name for node in nodes for name in node.input if name)
    made = dict.fromkeys(name for node in nodes for name in node.output)
    wanted = {name for node in ours for name in node.input}
    (image,) = (name for name in read if name not in made and name not in weights)
    for node in nodes:
        node.name = plain(node.name)
        for names in (node.input, node.output):
            names[:] = [plain(name) for name in names]
    graph = helper.make_graph(
        nodes,
        card.name,
        [helper.make_tensor_value_info(plain(image), TensorProto.FLOAT, (1, 3, card.input.height, card.input.width))],
        [helper.make_tensor_value_info(plain(name), TensorProto.FLOAT, None) for name in made if name in wanted],
        [numpy_helper.from_array(weights[name], plain(name)) for name in read if name in weights],
    )
    opset = helper.make_opsetid("", opset_of(deployed))
    raw = helper.make_model(graph, opset_imports=[opset], ir_version=deployed.ir_version, producer_name="vision-infer")
    return onnx.shape_inference.infer_shapes(raw, strict_mode=True, data_prop=True)


def plain(name: str) -> str:
    """Return the name of a tensor or node in the raw model."""
    return name.removeprefix(NETWORK_PREFIX)


def deploy(square: bytes, size: Size) -> onnx.ModelProto:
    """Return the deployment graph for an input size, with all its weights.

    Args:
        square: The content of ``model.onnx``.
        size: The input size.
    """
    card = read_card()
    sized = card.model_copy(update={"input": card.input.model_copy(update={"width": size.width, "height": size.height})})
    network = prepare_network(raw_network(onnx.load_from_string(square), card), "raw.onnx", size)
    return store_weights_fp16(join(network, sized, CANDIDATES)[0], tolerance=0)


def build() -> bytes:
    """Return the content of the file for wide images."""
    square = (HERE / GRAPH_FILE).read_bytes()
    data: bytes = share_weights(deploy(square, WIDE), {GRAPH_FILE: square}).SerializeToString(deterministic=True)
    if len(data) > LARGEST:
        raise SystemExit(f"widen: {len(data):,} bytes: the weights differ from those in {GRAPH_FILE}")
    return data


def read_card() -> ModelCard:
    """Read the card next to this script."""
    return parse_card(yaml.safe_load((HERE / "model.yaml").read_text(encoding="utf-8")), "model.yaml")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build the bundled model for wide images from model.onnx.")
    parser.add_argument("--check", action="store_true", help="write no file; compare with the existing one")
    options = parser.parse_args(arguments)
    target, data = HERE / graph_file(WIDE, read_card().input_size), build()
    if options.check:
        if not target.is_file() or target.read_bytes() != data:
            raise SystemExit(f"widen: {target.name} was not built from {GRAPH_FILE}; run the script again")
        print(f"{target.name}: byte-identical")
        return
    target.write_bytes(data)
    print(f"{target.name}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
