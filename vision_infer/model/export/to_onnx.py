"""Conversion of a PyTorch model to a raw ONNX model with a dynamic batch, weights inside the file, and named outputs."""

from __future__ import annotations

import contextlib
import io

import onnx
from onnx import TensorProto

from vision_infer.core.errors import ModelError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Built
from vision_infer.model.export.library import load, quietly
from vision_infer.model.graph import dims_of

OPSET = 18
"""The operator set that PyTorch writes without a conversion and every runtime reads."""
OPSETS = (18, 23)
"""The minimum and the maximum operator set."""
_EXAMPLE = 2
"""The batch size for tracing; 1 would be treated as a constant."""


def check_opset(opset: int) -> None:
    """Refuse an unsupported operator set.

    Raises:
        UsageError: The operator set is not supported.
    """
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise UsageError(f"--opset {opset}: not supported", f"Use {OPSETS[0]}–{OPSETS[1]}; every runtime reads {OPSET}.")


def to_onnx(built: Built, size: Size, opset: int, where: str) -> onnx.ModelProto:
    """Convert a model to ONNX.

    Args:
        built: The model.
        size: The input size.
        opset: The operator set.
        where: The name of the model, for errors.

    Returns:
        An ONNX model with the input ``images`` float32 [batch, 3, H, W] and the outputs, all with the same symbolic first
        dimension.

    Raises:
        ModelError: PyTorch cannot export the model, or not with a dynamic batch.
    """
    torch = load("torch")
    load("onnxscript")
    images = torch.zeros(_EXAMPLE, 3, size.height, size.width)
    try:
        # The exporter prints its attempts, which are of no use here.
        with quietly(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            free = ({0: torch.export.Dim.DYNAMIC},)
            program = torch.export.export(built.module, (images,), dynamic_shapes=free, strict=built.strict)
            names = {"input_names": ["images"], "output_names": list(built.outputs)}
            made = torch.onnx.export(program, (), dynamo=True, external_data=False, verbose=False, opset_version=opset, **names)
            model: onnx.ModelProto = made.model_proto
    except Exception as error:  # the code of the model may raise anything
        raise _refusal(error, where, size) from error
    _check(model, built, where)
    return model


def _refusal(error: Exception, where: str, size: Size) -> ModelError:
    text = " ".join(str(error).split())
    if "specialized" in text or "Constraints violated" in text:
        message = f"{where}: the code fixes the batch at {_EXAMPLE}, so the model cannot be exported with a dynamic batch"
        return ModelError(message, "Do not convert images.shape[0] to a number with len(), int() or range().")
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = str(cause).strip().splitlines() or [""]
    reason = f"{type(cause).__name__}: {lines[0][:200]}"
    message = f"{where}: PyTorch cannot export it at {size}: {reason}"
    return ModelError(message, "Check that the model supports this input size; --debug shows the full error.")


def _check(model: onnx.ModelProto, built: Built, where: str) -> None:
    """Refuse a model without a dynamic batch: exporters may fix it without an error, so that only a batch of two would work."""
    taken = [info.name for info in model.graph.input]
    if taken != ["images"]:
        raise ModelError(f"{where}: the inputs are {', '.join(taken)}", "The forward method must take the images only.")
    given = [info.name for info in model.graph.output]
    if given != list(built.outputs):
        message = f"{where}: returns {len(given)} outputs instead of {len(built.outputs)} ({', '.join(built.outputs)})"
        raise ModelError(message, "Name each output of the forward method.")
    symbols = set()
    for info in (*model.graph.input, *model.graph.output):
        first = next(iter(info.type.tensor_type.shape.dim), None)
        if first is None or not first.dim_param:
            shape = list(dims_of(info))
            message = f"{where}: exported with a fixed batch: '{info.name}' is {shape}"
            raise ModelError(message, "The batch must be the first dimension of each output.")
        symbols.add(first.dim_param)
    if len(symbols) != 1:
        raise ModelError(f"{where}: the batches of inputs and outputs differ", "Each output must have one row per image.")
    if model.graph.input[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ModelError(f"{where}: the input is not float32", "Export it in float32; 'model quantize' converts it to FP16.")
