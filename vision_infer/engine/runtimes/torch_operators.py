"""The ONNX operators of deployment graphs (operator sets 11 to 20), in PyTorch.

Each receives its node's inputs (None for one that is left out) and attributes. Inputs that are parameters (shapes, axes, sizes)
are on the host, so that nothing waits for a device: see :data:`DATA_INPUTS`. The operators: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

Attributes = Mapping[str, Any]
Inputs = Sequence[Any]
"""Tensors, or None."""
Operator = Callable[[Inputs, Attributes], Any]

DATA_INPUTS = {
    **dict.fromkeys(("Reshape", "Expand", "Slice", "Tile", "Resize", "Unsqueeze", "Squeeze", "Split", "Pad", "TopK", "Clip"), 1),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), 1),
    **dict.fromkeys(("ConstantOfShape", "Range"), 0),
}
"""The number of leading inputs that are data, by operator; the others are parameters. Of other operators all are data."""

_FLOATS = {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}
DTYPES = {**_FLOATS, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool}
"""The types by ONNX's numbers."""


def _ints(value: Tensor) -> list[int]:
    return [int(number) for number in value.flatten().tolist()]


def _axes(inputs: Inputs, attributes: Attributes) -> list[int] | None:
    """Return the axes: an attribute in old operator sets, an input in new ones."""
    if len(inputs) > 1 and inputs[1] is not None:
        return _ints(inputs[1])
    axes = attributes.get("axes")
    return None if axes is None else list(axes)


def _refuse(operator: str, why: str) -> Any:
    raise NotImplementedError(f"{operator} with {why}")


def _padded(x: Tensor, attributes: Attributes, value: float = 0.0) -> tuple[Tensor, Any]:
    """Return the input and the padding that the operator adds itself; the input is padded here if the sides differ."""
    spatial = x.ndim - 2
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        _refuse("Conv or pooling", "auto_pad")
    pads = list(attributes.get("pads", [0] * 2 * spatial))
    begins, ends = pads[:spatial], pads[spatial:]
    if begins == ends:
        return x, begins
    sides = [side for begin, end in zip(reversed(begins), reversed(ends), strict=True) for side in (begin, end)]
    return functional.pad(x, sides, value=value), [0] * spatial


def _conv(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, pads = _padded(inputs[0], attributes)
    convolution = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[x.ndim]
    ones = [1] * (x.ndim - 2)
    bias = inputs[2] if len(inputs) > 2 else None
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    result: Tensor = convolution(x, inputs[1], bias, strides, pads, dilations, attributes.get("group", 1))
    return result


def _max_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    shape = attributes["kernel_shape"]
    x, pads = _padded(inputs[0], attributes, -math.inf)
    ceil = bool(attributes.get("ceil_mode", 0))
    return functional.max_pool2d(x, shape, attributes.get("strides", [1] * len(shape)), pads, ceil_mode=ceil)


def _average_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    shape = attributes["kernel_shape"]
    counted = bool(attributes.get("count_include_pad", 0))
    x, pads = _padded(inputs[0], attributes)
    if x is not inputs[0] and not counted:
        _refuse("AveragePool", "different padding on both sides")
    ceil = bool(attributes.get("ceil_mode", 0))
    return functional.avg_pool2d(x, shape, attributes.get("strides", [1] * len(shape)), pads, ceil, counted)


def _batch_norm(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, scale, bias, mean, variance = inputs[:5]
    return functional.batch_norm(x, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _layer_norm(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, scale = inputs[:2]
    axis = attributes.get("axis", -1) % x.ndim
    return functional.layer_norm(
        x, x.shape[axis:], scale, inputs[2] if len(inputs) > 2 else None, attributes.get("epsilon", 1e-5)
    )


def _gemm(inputs: Inputs, attributes: Attributes) -> Tensor:
    a, b = inputs[:2]
    a = a.T if attributes.get("transA") else a
    b = b.T if attributes.get("transB") else b
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return product if len(inputs) < 3 or inputs[2] is None else product + attributes.get("beta", 1.0) * inputs[2]


def _reshape(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, wanted = inputs[0], _ints(inputs[1])
    copies = attributes.get("allowzero", 0) == 0
    reshaped: Tensor = x.reshape([x.shape[at] if side == 0 and copies else side for at, side in enumerate(wanted)])
    return reshaped


def _expand(inputs: Inputs, _: Attributes) -> Tensor:
    x, wanted = inputs[0], _ints(inputs[1])
    ours = [1] * (len(wanted) - x.ndim) + list(x.shape)
    theirs = [1] * (x.ndim - len(wanted)) + wanted
    expanded: Tensor = x.expand([max(side, other) if side and other else 0 for side, other in zip(ours, theirs, strict=True)])
    return expanded


def _squeeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    axes = _axes(inputs, attributes)
    squeezed: Tensor = inputs[0].squeeze() if axes is None else inputs[0].squeeze(tuple(axes))
    return squeezed


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, axes = inputs[0], _axes(inputs, attributes) or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x  # type: ignore[no-any-return]


def _slice(inputs: Inputs, _: Attributes) -> Tensor:
    x, starts, ends = inputs[0], _ints(inputs[1]), _ints(inputs[2])
    axes = _ints(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = _ints(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, stride = slice(start, max(end, -(2**62)), step).indices(x.shape[axis])
        if stride > 0:
            x = x.narrow(axis, first, max(0, last - first))
            x = x if stride == 1 else x[(slice(None),) * (axis % x.ndim) + (slice(None, None, stride),)]
        else:
            x = x.index_select(axis, torch.arange(first, last, stride, device=x.device))
    return x  # type: ignore[no-any-return]


def _split(inputs: Inputs, attributes: Attributes) -> Any:
    x, axis = inputs[0], attributes.get("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        return x.split(_ints(inputs[1]), axis)
    if "split" in attributes:
        return x.split(list(attributes["split"]), axis)
    return x.split(-(-x.shape[axis] // attributes["outputs"]), axis)


def _pad(inputs: Inputs, attributes: Attributes) -> Tensor:
    if attributes.get("mode", b"constant") != b"constant" or (len(inputs) > 3 and inputs[3] is not None):
        _refuse("Pad", "another mode than constant, or axes")
    x, pads = inputs[0], _ints(inputs[1])
    sides = [side for axis in reversed(range(x.ndim)) for side in (pads[axis], pads[axis + x.ndim])]
    return functional.pad(x, sides, value=float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else 0.0)


def _resize(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = inputs[0]
    if len(inputs) > 3 and inputs[3] is not None:
        size = _ints(inputs[3])
    else:
        size = [math.floor(side * scale) for side, scale in zip(x.shape, inputs[2].tolist(), strict=True)]
    if size[:2] != list(x.shape[:2]) or x.ndim != 4:
        _refuse("Resize", "other axes than height and width")
    mode, place = attributes.get("mode", b"nearest"), attributes.get("coordinate_transformation_mode", b"half_pixel")
    if mode == b"nearest":
        whole = all(new % old == 0 for new, old in zip(size[2:], x.shape[2:], strict=True))
        if not whole and (place, attributes.get("nearest_mode")) != (b"asymmetric", b"floor"):
            _refuse("Resize", f"nearest, {place.decode()}")
        return functional.interpolate(x, size[2:], mode="nearest")
    if place not in (b"half_pixel", b"pytorch_half_pixel", b"align_corners"):
        _refuse("Resize", f"{mode.decode()}, {place.decode()}")
    named = {b"linear": "bilinear", b"cubic": "bicubic"}[mode]
    smooth = bool(attributes.get("antialias", 0))
    return functional.interpolate(x, size[2:], mode=named, align_corners=place == b"align_corners", antialias=smooth)


def _grid_sample(inputs: Inputs, attributes: Attributes) -> Tensor:
    mode = attributes.get("mode", b"bilinear").decode().removeprefix("linear") or "bilinear"
    padding = attributes.get("padding_mode", b"zeros").decode()
    return functional.grid_sample(inputs[0], inputs[1], mode, padding, bool(attributes.get("align_corners", 0)))


def _gather(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, at = inputs[0], inputs[1]
    axis = attributes.get("axis", 0) % x.ndim
    at = torch.where(at < 0, at + x.shape[axis], at)
    taken: Tensor = x.index_select(axis, at.reshape(-1))
    return taken.reshape([*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]])


def _gather_elements(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, at = inputs[0], inputs[1].long()
    axis = attributes.get("axis", 0)
    taken: Tensor = x.gather(axis, torch.where(at < 0, at + x.shape[axis], at))
    return taken


def _gather_nd(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, at = inputs[0], inputs[1].long()
    batch, depth = attributes.get("batch_dims", 0), at.shape[-1]
    count = math.prod(x.shape[:batch])
    flat, places = x.reshape(count, *x.shape[batch:]), at.reshape(count, -1, depth)
    rows = torch.arange(count, device=x.device)[:, None].expand(places.shape[:2])
    taken: Tensor = flat[(rows, *places.unbind(-1))]
    return taken.reshape([*at.shape[:-1], *x.shape[batch + depth :]])


def _top_k(inputs: Inputs, attributes: Attributes) -> Any:
    count, axis = _ints(inputs[1])[0], attributes.get("axis", -1)
    largest, ordered = bool(attributes.get("largest", 1)), bool(attributes.get("sorted", 1))
    return torch.topk(inputs[0], count, axis, largest, ordered)


def _clip(inputs: Inputs, attributes: Attributes) -> Tensor:
    given = [inputs[at].item() if len(inputs) > at and inputs[at] is not None else None for at in (1, 2)]
    low, high = (attributes.get(name) if value is None else value for name, value in zip(("min", "max"), given, strict=True))
    if low is None and high is None:
        return inputs[0]  # type: ignore[no-any-return]
    return torch.clamp(inputs[0], low, high)


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def reduce(inputs: Inputs, attributes: Attributes) -> Tensor:
        x, axes = inputs[0], _axes(inputs, attributes)
        if axes is None and attributes.get("noop_with_empty_axes", 0):
            return x  # type: ignore[no-any-return]
        dims = list(range(x.ndim)) if axes is None else axes
        # PyTorch sums integers in a wider type.
        return function(x, dim=dims, keepdim=bool(attributes.get("keepdims", 1))).to(x.dtype)

    return reduce


def _divide(inputs: Inputs, _: Attributes) -> Tensor:
    whole = not inputs[0].is_floating_point()
    return torch.div(inputs[0], inputs[1], rounding_mode="trunc" if whole else None)


def _mod(inputs: Inputs, attributes: Attributes) -> Tensor:
    return torch.fmod(inputs[0], inputs[1]) if attributes.get("fmod", 0) else torch.remainder(inputs[0], inputs[1])


def _along(x: Tensor, scale: Tensor, axis: int) -> Tensor:
    return (
        scale
        if scale.ndim != 1 or scale.numel() == 1
        else scale.reshape([-1 if at == axis % x.ndim else 1 for at in range(x.ndim)])
    )


def _quantize(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, scale = inputs[0], inputs[1]
    zero = inputs[2] if len(inputs) > 2 else torch.zeros((), dtype=torch.uint8, device=x.device)
    axis, limits = attributes.get("axis", 1), torch.iinfo(zero.dtype)
    steps = torch.round(x / _along(x, scale, axis)) + _along(x, zero, axis)
    return steps.clamp(limits.min, limits.max).to(zero.dtype)


def _dequantize(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, scale = inputs[0], inputs[1]
    axis = attributes.get("axis", 1)
    steps = x.to(scale.dtype)
    if len(inputs) > 2 and inputs[2] is not None:
        steps = steps - _along(x, inputs[2], axis).to(scale.dtype)
    return steps * _along(x, scale, axis)  # type: ignore[no-any-return]


def _constant_of_shape(inputs: Inputs, attributes: Attributes) -> Tensor:
    value = attributes.get("value", torch.zeros(1))
    return torch.full(_ints(inputs[0]), value.item(), dtype=value.dtype)


def _of(function: Callable[..., Any]) -> Operator:
    """Return an operator that is a function of its inputs, without attributes."""
    return lambda inputs, _: function(*inputs)


OPERATORS: dict[str, Operator] = {
    **{name: _of(getattr(torch, name.lower())) for name in ("Abs", "Exp", "Erf", "Floor", "Ceil", "Log", "Neg", "Relu", "Round")},
    **{name: _of(getattr(torch, name.lower())) for name in ("Reciprocal", "Sigmoid", "Sin", "Cos", "Sqrt", "Tanh", "Where")},
    **{name: _of(getattr(torch, name.lower())) for name in ("Add", "Sub", "Mul", "MatMul", "Pow", "Greater", "Less")},
    "Equal": _of(torch.eq),
    "GreaterOrEqual": _of(torch.greater_equal),
    "LessOrEqual": _of(torch.less_equal),
    "And": _of(torch.logical_and),
    "Or": _of(torch.logical_or),
    "Not": _of(torch.logical_not),
    "Max": _of(lambda *given: functools.reduce(torch.maximum, given)),
    "Min": _of(lambda *given: functools.reduce(torch.minimum, given)),
    "Div": _divide,
    "Mod": _mod,
    "Identity": _of(lambda x: x),
    "LeakyRelu": lambda inputs, attributes: functional.leaky_relu(inputs[0], attributes.get("alpha", 0.01)),
    "HardSigmoid": lambda inputs, a: torch.clamp(a.get("alpha", 0.2) * inputs[0] + a.get("beta", 0.5), 0, 1),
    "HardSwish": _of(functional.hardswish),
    "Gelu": lambda inputs, a: functional.gelu(inputs[0], approximate=a.get("approximate", b"none").decode()),
    "Softmax": lambda inputs, a: inputs[0].softmax(a.get("axis", -1)),
    "Cast": lambda inputs, a: inputs[0].to(DTYPES[a["to"]]),
    "Clip": _clip,
    "Conv": _conv,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _of(lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)),
    "Resize": _resize,
    "GridSample": _grid_sample,
    "Pad": _pad,
    "Shape": lambda inputs, a: torch.tensor(inputs[0].shape[a.get("start", 0) : a.get("end")], dtype=torch.int64),
    "Reshape": _reshape,
    "Flatten": lambda inputs, a: inputs[0].reshape(math.prod(inputs[0].shape[: a.get("axis", 1)]), -1),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Tile": _of(lambda x, repeats: x.tile(_ints(repeats))),
    "Transpose": lambda inputs, a: inputs[0].permute(a.get("perm", tuple(reversed(range(inputs[0].ndim))))),
    "Concat": lambda inputs, attributes: torch.cat(list(inputs), attributes["axis"]),
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "TopK": _top_k,
    "ArgMax": lambda inputs, a: inputs[0].argmax(a.get("axis", 0), bool(a.get("keepdims", 1))),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin),
    "ReduceL2": _reduce(torch.linalg.vector_norm),
    "Range": _of(lambda start, limit, step: torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)),
    "ConstantOfShape": _constant_of_shape,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
