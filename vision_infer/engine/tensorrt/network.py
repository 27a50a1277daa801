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
from vision_infer.engine.tensorrt.api import Api, Messages

_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "UINT8": "uint8"}
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_WEIGHTED = {"CONVOLUTION": "convolutions", "DECONVOLUTION": "deconvolutions", "MATRIX_MULTIPLY": "matrix products"}


@dataclass(frozen=True, slots=True)
class ParsedNetwork:
    """A parsed network, with everything that has to live as long as it."""

    builder: Any
    """The builder of the network."""
    network: Any
    """The network definition."""
    parser: Any
    """The ONNX parser, which owns the weights."""
    messages: Messages
    """The logger, with the last errors."""
    outputs: OutputShapes
    """The outputs, as the contract defines them."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a parsed network."""

    name: str
    """The name of the graph's node."""
    kind: str
    """The kind, as TensorRT names it: ``CONVOLUTION``, ``QUANTIZE``, …"""
    inputs: tuple[str, ...]
    """The dtypes of its inputs: ``float32``, ``int8``, …"""
    outputs: tuple[str, ...]
    """The dtypes of its outputs."""
    readers: tuple[str, ...]
    """The kinds of the layers that read its outputs."""
    precision: str
    """The precision in which it computes: ``fp32``, ``fp16``, ``bf16``; ``int8`` if its input and its weights are dequantized
    directly before it; else the dtype of its first output."""


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """The layers of a network, and their precisions."""

    layers: tuple[Layer, ...]
    """The layers, in the order of the network."""

    def precisions(self) -> Mapping[str, str]:
        """Return the counts of precisions for each kind of layer with weights: ``{'convolutions': '31 int8, 3 fp32'}``."""
        counts: dict[str, Counter[str]] = {}
        for layer in self.layers:
            if layer.kind in _WEIGHTED:
                counts.setdefault(_WEIGHTED[layer.kind], Counter())[layer.precision] += 1
        return {kind: ", ".join(f"{number} {what}" for what, number in found.most_common()) for kind, found in counts.items()}

    def of_kind(self, kind: str) -> list[Layer]:
        """Return the layers of a kind, in the order of the network."""
        return [layer for layer in self.layers if layer.kind == kind]


def parse_network(api: Api, graph: Path, card: ModelCard) -> ParsedNetwork:
    """Parse a deployment graph with a runtime.

    Args:
        api: The runtime.
        graph: The file.
        card: The card of the graph.

    Raises:
        EngineError: The runtime does not support one of its operators; the message names it.
        ModelError: Its inputs and outputs are not those of a deployment graph.
    """
    trt, messages = api.module, Messages(api)
    builder = trt.Builder(messages.logger)
    # Since TensorRT 11 all networks are strongly typed, and the flag changes nothing.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages.logger)
    if not parser.parse_from_file(str(graph)):
        raise _refusal(api, parser, graph, messages)
    messages.clear()  # the parser logs errors of attempts that it repeats in another way
    inputs = [_port(api, network.get_input(index)) for index in range(network.num_inputs)]
    outputs = [_port(api, network.get_output(index)) for index in range(network.num_outputs)]
    return ParsedNetwork(builder, network, parser, messages, check_contract(inputs, outputs, card, graph))


def _refusal(api: Api, parser: Any, graph: Path, messages: Messages) -> EngineError:
    if parser.num_errors == 0:
        return EngineError(f"{graph}: {api.title} cannot read it: {messages.last_error()}", "import the model again")
    first = parser.get_error(0)
    operator, node = first.node_operator(), first.node_name()
    why = _reason(str(first.desc()))
    if not operator:
        return EngineError(f"{graph}: {api.title} cannot read it: {why}", "import the model again")
    hint = "run it with --engine onnxruntime, or use another precision"
    if operator in ("QuantizeLinear", "DequantizeLinear"):
        hint = "it supports only one form of INT8: vision-infer model quantize MODEL --form tensorrt --data …"
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
        raise EngineError(f"{api.title} cannot determine the shape of '{tensor.name}'", "import the model again") from error
    return Port(tensor.name, _dtype(tensor), tuple("?" if side < 0 else side for side in sides))


def inspect_network(parsed: ParsedNetwork) -> NetworkFacts:
    """Inspect a parsed network layer by layer."""
    network = parsed.network
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {layer.get_output(index).name: layer.type.name for layer in layers for index in range(layer.num_outputs)}
    readers: dict[str, list[str]] = {}
    for layer in layers:
        for tensor in _read(layer):
            readers.setdefault(tensor.name, []).append(layer.type.name)
    return NetworkFacts(tuple(_inspect_layer(layer, producers, readers) for layer in layers))


def _read(layer: Any) -> list[Any]:
    return [tensor for index in range(layer.num_inputs) if (tensor := layer.get_input(index)) is not None]


def _inspect_layer(layer: Any, producers: Mapping[str, str], readers: Mapping[str, list[str]]) -> Layer:
    kind, read = layer.type.name, _read(layer)
    names = [layer.get_output(index).name for index in range(layer.num_outputs)]
    outputs = tuple(_dtype(layer.get_output(index)) for index in range(layer.num_outputs))
    first = outputs[0] if outputs else "none"
    precision = _PRECISIONS.get(first, first)
    # The weights are the second input; if they are a constant of the layer itself, they are not quantized.
    if kind in _WEIGHTED and len(read) > 1 and all(producers.get(tensor.name) == "DEQUANTIZE" for tensor in read[:2]):
        precision = "int8"
    next_kinds = tuple(reader for name in names for reader in readers.get(name, ()))
    return Layer(layer.name, kind, tuple(_dtype(tensor) for tensor in read), outputs, next_kinds, precision)
