"""A network of PyTorch as a raw ONNX network: its batch free, its weights inside, its outputs named."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import onnx
from onnx import TensorProto

from vision_infer.core.errors import ModelError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Built
from vision_infer.model.export.library import load, quietly
from vision_infer.model.graph import dims_of

OPSET = 18
"""what PyTorch writes without a conversion, and every runtime reads"""
OPSETS = (18, 23)
"""the lowest and the highest"""
_EXAMPLE = 2
"""pictures that the network is followed with; 1 would be taken for a constant"""


def check_opset(opset: int) -> None:
    """Refuse an operator set that cannot be written.

    Raises:
        UsageError: names those that can.
    """
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise UsageError(f"--opset {opset}: cannot be written", f"choose {OPSETS[0]} to {OPSETS[1]}; {OPSET} is read everywhere")


def to_onnx(built: Built, size: Size, opset: int, where: str) -> onnx.ModelProto:
    """Write a network as ONNX.

    Args:
        built: the network.
        size: its input.
        opset: the operator set.
        where: names the network in an error.

    Returns:
        A model with the input ``images`` float32 [batch, 3, H, W] and the network's outputs, all of whose first sides are the
        same symbol.

    Raises:
        ModelError: PyTorch cannot export it, or not with a free batch; says what PyTorch said.
    """
    torch = load("torch")
    load("onnxscript")
    images = torch.zeros(_EXAMPLE, 3, size.height, size.width)
    try:
        # What is told goes to nobody: the exporter prints what it tries.
        with quietly(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            free = ({0: torch.export.Dim.DYNAMIC},)
            program = torch.export.export(built.module, (images,), dynamic_shapes=free, strict=built.strict)
            names = {"input_names": ["images"], "output_names": list(built.outputs)}
            made = torch.onnx.export(program, (), dynamo=True, external_data=False, verbose=False, opset_version=opset, **names)
            model: onnx.ModelProto = made.model_proto
    except Exception as error:  # the exporter raises whatever the network's own code does
        raise _refusal(error, where, size) from error
    _check(model, built, where)
    return model


def _refusal(error: Exception, where: str, size: Size) -> ModelError:
    text = " ".join(str(error).split())
    if "specialized" in text or "Constraints violated" in text:
        message = f"{where}: its batch is fixed at {_EXAMPLE} inside of it, so that it cannot be exported with a free one"
        return ModelError(message, "its code must not turn images.shape[0] into a number (len(), int(), range())")
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = str(cause).strip().splitlines() or [""]
    told = f"{type(cause).__name__}: {lines[0][:200]}"
    message = f"{where}: PyTorch cannot export it, {size.width} wide and {size.height} high: {told}"
    return ModelError(message, "is the input size one that it takes? --debug shows all that PyTorch said")


def _check(model: onnx.ModelProto, built: Built, where: str) -> None:
    """Refuse what is no raw network with a free batch: exporters fix it silently, and then only a batch of two would be right."""
    taken = [info.name for info in model.graph.input]
    if taken != ["images"]:
        raise ModelError(f"{where}: takes the inputs {', '.join(taken)}", "its forward has to take the pictures alone")
    given = [info.name for info in model.graph.output]
    if given != list(built.outputs):
        message = f"{where}: gives {len(given)} outputs and not {len(built.outputs)} ({', '.join(built.outputs)})"
        raise ModelError(message, "name each output that its forward gives")
    symbols = set()
    for info in (*model.graph.input, *model.graph.output):
        first = next(iter(info.type.tensor_type.shape.dim), None)
        if first is None or not first.dim_param:
            shape = list(dims_of(info))
            message = f"{where}: was exported with a fixed batch: '{info.name}' is {shape}"
            raise ModelError(message, "each output has to keep the batch as its first side")
        symbols.add(first.dim_param)
    if len(symbols) != 1:
        raise ModelError(f"{where}: its outputs have other batches than its input", "each has to give one row a picture")
    if model.graph.input[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ModelError(f"{where}: does not take float32", "export it in float32; 'model quantize' makes FP16 of it")


def count_parameters(module: Any) -> int:
    """The number of a network's weights."""
    return sum(int(tensor.numel()) for tensor in module.parameters())
