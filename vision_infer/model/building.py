"""Building of deployment graphs: pre-processing, raw model and head."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.model.decode import normalize_images
from vision_infer.model.graph import BATCH, OUTPUTS, GraphBuilder, finish, opset_of, tensor_info
from vision_infer.model.heads import find_head
from vision_infer.model.network import RawNetwork
from vision_infer.model.recognize import refuse_other_tasks

CANDIDATES = 300
"""The default of K, the maximum number of boxes per image."""


def join(network: RawNetwork, card: ModelCard, candidates: int) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Join a raw model with its pre-processing and the decoding of its head.

    Args:
        network: The raw model.
        card: Its card; ``head`` and ``input`` must be right.
        candidates: K, at most the number of boxes that the model has.

    Returns:
        The checked graph with the card inside, and what the head detected. The graph's input is ``images``, uint8
        [batch, H, W, 3]. The outputs of a detector are ``boxes`` float32 [batch, K, 4] (xyxy, input pixels), ``scores``
        float32 [batch, K], ``class_ids`` int32 [batch, K], and those of the card's detail.

    Raises:
        ModelError: The model does not fit the head or the card, or its batch is fixed.
    """
    if candidates < 1:
        raise ModelError(f"{network.where}: {candidates} candidates are not possible", "Use at least 1.")
    refuse_other_tasks(network)
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    builder = GraphBuilder(opset_of(model))
    tensor = normalize_images(builder, "images", card, network.image.dtype)
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
    batch = card.max_batch or BATCH
    graph.input.append(tensor_info("images", TensorProto.UINT8, batch, network.size.height, network.size.width, 3))
    for name in card.outputs:
        dtype, rank = OUTPUTS[name]
        graph.output.append(tensor_info(name, dtype, batch, *"KLMN"[: rank - 1]))  # the shapes are inferred
    model.producer_name, graph.name = "vision-infer", card.name
    return finish(model, card, network.where), made.notes
