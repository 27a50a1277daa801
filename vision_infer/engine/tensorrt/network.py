"""A deployment graph as a network of TensorRT: parsed, checked, and inspected layer by layer.

A network is strongly typed: it computes in the types of the graph. So the precision of a plan can be determined here, without a
GPU: an operator whose inputs all come from DequantizeLinear is fused with them into one that multiplies INT8.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.contract import OutputShapes, Port, check_contract
from vision_infer.engine.tensorrt.api import Api, Messages, created, start

_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "UINT8": "uint8"}
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_WEIGHTED = {"CONVOLUTION": "convolutions", "DECONVOLUTION": "deconvolutions", "MATRIX_MULTIPLY": "matrix products"}


@dataclass(frozen=True, slots=True)
class ParsedNetwork:
    """A parsed network, with everything that has to live as long as it."""

    builder: Any
    network: Any
    parser: Any
    """The ONNX parser, which owns the weights."""
    messages: Messages
    """The logger, with the last errors."""
    outputs: OutputShapes
    """The outputs, as the contract defines them."""


def parse_network(api: Api, graph: Path, card: ModelCard) -> ParsedNetwork:
    """Parse a deployment graph with a runtime.

    Raises:
        EngineError: The runtime does not start, or does not support one of the graph's operators; the message names it.
        ModelError: Its inputs and outputs are not those of a deployment graph.
    """
    trt, messages = api.module, Messages(api)
    builder = start(api, messages, "Builder")
    # Since TensorRT 11 all networks are strongly typed, and the flag changes nothing.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = created(api, messages, builder.create_network(flags))
    parser = start(api, messages, "OnnxParser", network)
    if not parser.parse_from_file(str(graph)):
        raise _refusal(api, parser, graph, messages)
    messages.clear()  # the parser logs errors of attempts that it repeats in another way
    inputs = [_port(api, network.get_input(index)) for index in range(network.num_inputs)]
    outputs = [_port(api, network.get_output(index)) for index in range(network.num_outputs)]
    return ParsedNetwork(builder, network, parser, messages, check_contract(inputs, outputs, card, graph))


def _refusal(api: Api, parser: Any, graph: Path, messages: Messages) -> EngineError:
    if parser.num_errors == 0:
        return EngineError(f"{graph}: {api.title} cannot read it: {messages.last_error()}", "Import the model again.")
    first = parser.get_error(0)
    operator, node = first.node_operator(), first.node_name()
    why = _reason(str(first.desc()))
    if not operator:
        return EngineError(f"{graph}: {api.title} cannot read it: {why}", "Import the model again.")
    hint = "Run it with --engine onnxruntime, or use another precision."
    if operator in ("QuantizeLinear", "DequantizeLinear"):
        hint = "Create its form of INT8 with: vision-infer model quantize MODEL --form tensorrt --data …"
    return EngineError(f"{graph}: {api.title} does not support the operator {operator} (node '{node}'): {why}", hint)


def _reason(text: str) -> str:
    """Return the reason in a parser's error, without the node and the position in the parser's source."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("Invalid Node")]
    first = lines[0] if lines else "no reason given"
    inside = re.search(r"Error Code \d+: [^(]*\((.*)\)", first)
    return re.sub(r"\.? In \w+ at /\S+$", "", inside[1] if inside else first)[:300]


def _dtype(tensor: Any) -> str:
    name = tensor.dtype.name
    return _TYPES.get(name, str(name).lower())


def _port(api: Api, tensor: Any) -> Port:
    try:
        sides = tuple(int(side) for side in tensor.shape)
    except ValueError as error:  # a shape that the runtime cannot determine has a negative length
        raise EngineError(f"{api.title} cannot determine the shape of '{tensor.name}'", "Import the model again.") from error
    return Port(tensor.name, _dtype(tensor), tuple("?" if side < 0 else side for side in sides))


def layer_precisions(parsed: ParsedNetwork) -> dict[str, str]:
    """Return the counts of precisions for each kind of layer with weights: ``{'convolutions': '31 int8, 3 fp32'}``."""
    layers = [parsed.network.get_layer(index) for index in range(parsed.network.num_layers)]
    producers = {layer.get_output(index).name: layer.type.name for layer in layers for index in range(layer.num_outputs)}
    counts: dict[str, Counter[str]] = {}
    for layer in layers:
        if layer.type.name in _WEIGHTED:
            counts.setdefault(_WEIGHTED[layer.type.name], Counter())[_precision(layer, producers)] += 1
    return {kind: ", ".join(f"{number} {what}" for what, number in found.most_common()) for kind, found in counts.items()}


def _precision(layer: Any, producers: Mapping[str, str]) -> str:
    """Return ``int8`` if the layer's input and weights are dequantized directly before it; else the type of its first output."""
    inputs = [tensor for index in range(layer.num_inputs) if (tensor := layer.get_input(index)) is not None]
    # The weights are the second input; if they are a constant of the layer itself, they are not quantized.
    if len(inputs) > 1 and all(producers.get(tensor.name) == "DEQUANTIZE" for tensor in inputs[:2]):
        return "int8"
    dtype = _dtype(layer.get_output(0))
    return _PRECISIONS.get(dtype, dtype)
