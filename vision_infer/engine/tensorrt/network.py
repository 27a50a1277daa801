"""A deployment graph as TensorRT's network: parsed, checked, and looked at layer by layer.

A network is strongly typed: it computes in the types that the graph says. So what a plan will compute in can be read here,
without a GPU: an operator that reads from DequantizeLinear only is fused with them into one that multiplies INT8.
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
class Parsed:
    """A network, and all that has to live as long as it."""

    builder: Any
    network: Any
    parser: Any
    messages: Messages
    outputs: OutputShapes
    """as the contract wants them"""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a parsed network."""

    name: str
    """of the graph's node"""
    kind: str
    """in TensorRT's words: ``CONVOLUTION``, ``QUANTIZE``, …"""
    inputs: tuple[str, ...]
    """dtypes of the tensors that it reads: ``float32``, ``int8``, …"""
    outputs: tuple[str, ...]
    """dtypes of those that it makes"""
    readers: tuple[str, ...]
    """kinds of the layers that read those"""
    precision: str
    """what it computes in: ``fp32``, ``fp16``, ``bf16``; ``int8`` where its input and its weights are dequantized just before it;
    else the dtype of its first output"""


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What a network computes in."""

    layers: tuple[Layer, ...]

    def precisions(self) -> Mapping[str, str]:
        """By kind of layer with weights how many compute in what, in words: ``{'convolutions': '31 int8, 3 fp32'}``."""
        counts: dict[str, Counter[str]] = {}
        for layer in self.layers:
            if layer.kind in _WEIGHTED:
                counts.setdefault(_WEIGHTED[layer.kind], Counter())[layer.precision] += 1
        return {kind: ", ".join(f"{number} {what}" for what, number in found.most_common()) for kind, found in counts.items()}

    def of_kind(self, kind: str) -> list[Layer]:
        """The layers of a kind, in the order of the network."""
        return [layer for layer in self.layers if layer.kind == kind]


def parse_network(api: Api, graph: Path, card: ModelCard) -> Parsed:
    """Let a runtime parse a deployment graph.

    Args:
        api: the runtime.
        graph: the file.
        card: what it carries.

    Raises:
        EngineError: the runtime does not take one of its operators, which is named.
        ModelError: its inputs and outputs are not those of a deployment graph.
    """
    trt, messages = api.module, Messages(api)
    builder = trt.Builder(messages.logger)
    # The only kind there is since TensorRT 11, where the flag changes nothing.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages.logger)
    if not parser.parse_from_file(str(graph)):
        raise _refusal(api, parser, graph, messages)
    messages.clear()  # the parser tries things out, and tells of those that fail
    inputs = [_port(api, network.get_input(index)) for index in range(network.num_inputs)]
    outputs = [_port(api, network.get_output(index)) for index in range(network.num_outputs)]
    return Parsed(builder, network, parser, messages, check_contract(inputs, outputs, card, graph))


def _refusal(api: Api, parser: Any, graph: Path, messages: Messages) -> EngineError:
    if parser.num_errors == 0:
        return EngineError(f"{graph}: {api.title} cannot read it: {messages.last_error()}", "import the model again")
    first = parser.get_error(0)
    operator, node = first.node_operator(), first.node_name()
    why = _reason(str(first.desc()))
    if not operator:
        return EngineError(f"{graph}: {api.title} cannot read it: {why}", "import the model again")
    hint = "run it with --engine onnxruntime, or take another precision"
    if operator in ("QuantizeLinear", "DequantizeLinear"):
        hint = "it takes INT8 in one form only: vision-infer model quantize MODEL --form tensorrt --data …"
    return EngineError(f"{graph}: {api.title} does not take the operator {operator} (node '{node}'): {why}", hint)


def _reason(text: str) -> str:
    """What counts of an error of the parser: not which node it is, nor where in its source it was noticed."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("Invalid Node")]
    first = lines[0] if lines else "it does not say why"
    inside = re.search(r"Error Code \d+: [^(]*\((.*)\)", first)
    return re.sub(r"\.? In \w+ at /\S+$", "", inside[1] if inside else first)[:300]


def _dtype(tensor: Any) -> str:
    name = tensor.dtype.name
    return _TYPES.get(name, str(name).lower())


def _port(api: Api, tensor: Any) -> Port:
    try:
        sides = tuple(int(side) for side in tensor.shape)
    except ValueError as error:  # a shape that the runtime cannot tell has a negative length
        raise EngineError(f"{api.title} cannot tell the shape of '{tensor.name}'", "import the model again") from error
    return Port(tensor.name, _dtype(tensor), tuple("?" if side < 0 else side for side in sides))


def inspect_network(parsed: Parsed) -> NetworkFacts:
    """Look at a parsed network layer by layer."""
    network = parsed.network
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(index).name: layer.type.name for layer in layers for index in range(layer.num_outputs)}
    readers: dict[str, list[str]] = {}
    for layer in layers:
        for tensor in _read(layer):
            readers.setdefault(tensor.name, []).append(layer.type.name)
    return NetworkFacts(tuple(_look_at(layer, makers, readers) for layer in layers))


def _read(layer: Any) -> list[Any]:
    return [tensor for index in range(layer.num_inputs) if (tensor := layer.get_input(index)) is not None]


def _look_at(layer: Any, makers: Mapping[str, str], readers: Mapping[str, list[str]]) -> Layer:
    kind, read = layer.type.name, _read(layer)
    names = [layer.get_output(index).name for index in range(layer.num_outputs)]
    outputs = tuple(_dtype(layer.get_output(index)) for index in range(layer.num_outputs))
    first = outputs[0] if outputs else "none"
    precision = _PRECISIONS.get(first, first)
    # The weights are the second input; where they are a constant of the layer itself they are not quantized.
    if kind in _WEIGHTED and len(read) > 1 and all(makers.get(tensor.name) == "DEQUANTIZE" for tensor in read[:2]):
        precision = "int8"
    next_kinds = tuple(reader for name in names for reader in readers.get(name, ()))
    return Layer(layer.name, kind, tuple(_dtype(tensor) for tensor in read), outputs, next_kinds, precision)
