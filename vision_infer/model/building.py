"""Pre-processing + raw network + head = deployment graph."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.model.decode import normalise_images
from vision_infer.model.graph import BATCH, OUTPUTS, GraphBuilder, finish, opset_of, tensor_info
from vision_infer.model.heads import find_head
from vision_infer.model.network import RawNetwork, ScoreKind, prepare_network
from vision_infer.model.reading import read_onnx
from vision_infer.model.recognise import refuse_other_tasks

CANDIDATES = 300
"""K, where nothing else is said"""


def build_deployment_graph(
    raw_path: Path, card: ModelCard, candidates: int = CANDIDATES, scores: ScoreKind | None = None
) -> onnx.ModelProto:
    """Give a raw network its pre-processing and the decoding of its head.

    Args:
        raw_path: the network as its authors export it.
        card: what it is; ``head`` and ``input`` must be right.
        candidates: K, the number of boxes for each picture; less where the network has less to give.
        scores: what its class scores are, where its graph does not tell.

    Returns:
        A graph from ``images`` uint8 [batch, H, W, 3] to the outputs of the card's task, with the card inside. Of a detector:
        ``boxes`` float32 [batch, K, 4] (xyxy, input pixels), ``scores`` float32 [batch, K] and ``class_ids`` int32 [batch, K].

    Raises:
        ModelError: the file cannot be read, or does not fit the head or the card.
    """
    network = prepare_network(read_onnx(raw_path), raw_path.name, card.input_size, scores)
    return join(network, card, candidates)[0]


def join(network: RawNetwork, card: ModelCard, candidates: int) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Join a network with what goes before and behind it.

    Returns:
        The checked graph, and what the head found out on the way.

    Raises:
        ModelError: the network does not fit the head or the card, or its batch cannot be freed.
    """
    if candidates < 1:
        raise ModelError(f"{network.where}: cannot give {candidates} candidates", "ask for at least 1")
    refuse_other_tasks(network)
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    builder = GraphBuilder(opset_of(model))
    tensor = normalise_images(builder, "images", card, network.image.dtype)
    builder.rename(tensor, network.image.inside)
    before = builder.take_nodes()
    made = find_head(card.head).append(builder, network, card, candidates)
    for name, old in made.tensors.items():
        builder.rename(old, name)
    nodes = [*before, *model.graph.node, *builder.take_nodes()]
    graph = model.graph
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:], model.metadata_props[:]
    graph.node.extend(nodes)
    graph.initializer.extend(builder.initializers)
    graph.input.append(tensor_info("images", TensorProto.UINT8, BATCH, network.size.height, network.size.width, 3))
    for name, (dtype, rank) in OUTPUTS[card.task].items():
        graph.output.append(tensor_info(name, dtype, BATCH, *("K", 4)[: rank - 1]))
    model.producer_name, graph.name = "vision-infer", card.name
    return finish(model, card, network.where), made.notes
