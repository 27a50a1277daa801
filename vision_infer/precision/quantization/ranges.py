"""Ranges of a model's activations on calibration frames, by four methods.

One pass over the frames records the extremes and a sample of the values of each tensor (:data:`SAMPLES_PER_FRAME` per frame, to
bound the memory); all methods use these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from vision_infer.core.errors import ModelError
from vision_infer.engine.runtimes.onnxruntime import load_onnxruntime

Method = Literal["minmax", "percentile", "entropy", "squares"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "squares")
SAMPLES_PER_FRAME = 2048
PERCENTILE = 99.99
"""The percentage of values inside the range; the remainder is split evenly between both sides."""
LEVELS = 256
_BINS = 2048
_CANDIDATES = 64
"""The number of thresholds for the minimum divergence."""
_MIN_PART = 0.2
"""The minimum threshold, as a share of the largest absolute value."""
_ENDS = 16
"""The number of values of each end for the minimum squared error."""
_MIN_END = 0.1
"""The minimum of each end, as a share of the extreme."""
_VALUES = 8192
"""The maximum number of values for squared errors."""


@dataclass(frozen=True, slots=True)
class Activations:
    """The values of one tensor."""

    low: float
    high: float
    sample: NDArray[np.float32]
    """Values spread over the tensor, of all frames, float32 [N]."""
    slope: float = 1.0
    """The slope of the following activation function for negative values: 0 for ReLU."""


def collect_activations(
    model: onnx.ModelProto, tensors: Iterable[str], frames: Iterable[NDArray[np.uint8]], where: str
) -> dict[str, Activations]:
    """Run frames through a graph and record some of its tensors.

    Args:
        model: A deployment graph.
        tensors: The names of float32 tensors in it.
        frames: The contents of slots, uint8 [H, W, 3] each.
        where: The name of the model, for errors.

    Raises:
        ModelError: A tensor contains a value that is not finite, or there are no frames.
    """
    names = sorted(set(tensors))
    if not names:  # nothing to quantize, as in a transformer
        return {}
    session = open_session(model, names)
    spread = np.random.default_rng(0)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    samples: list[list[NDArray[np.float32]]] = [[] for _ in names]
    for frame in frames:
        for number, values in enumerate(session.run(names, {"images": frame[None]})):
            flat = values.reshape(-1)
            low[number], high[number] = min(low[number], flat.min()), max(high[number], flat.max())
            step = max(1, flat.size // SAMPLES_PER_FRAME)
            samples[number].append(flat[int(spread.integers(step)) :: step][:SAMPLES_PER_FRAME].copy())
    if not samples[0]:
        raise ModelError(f"{where}: there are no frames for the calibration", "Add --data.")
    broken = ~(np.isfinite(low) & np.isfinite(high))
    if broken.any():
        name = names[int(broken.argmax())]
        raise ModelError(f"{where}: the tensor '{name}' contains values that are not finite", "Check the model in FP32.")
    slopes = _slopes_behind(model)
    return {
        name: Activations(float(low[number]), float(high[number]), np.concatenate(samples[number]), slopes.get(name, 1.0))
        for number, name in enumerate(names)
    }


def find_ranges(activations: Mapping[str, Activations], method: Method) -> dict[str, tuple[float, float]]:
    """Return the range of each tensor, which always contains 0."""
    methods = {"minmax": _extremes, "percentile": _percentile, "entropy": _least_divergence, "squares": _least_squares}
    find = methods[method]
    return {name: find(one) for name, one in activations.items()}


def open_session(model: onnx.ModelProto, names: Iterable[str]) -> Any:
    """Open a graph in ONNX Runtime, with one thread and some inner tensors as additional outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {info.name for info in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    runtime = load_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _extremes(one: Activations) -> tuple[float, float]:
    return min(one.low, 0.0), max(one.high, 0.0)


def _percentile(one: Activations) -> tuple[float, float]:
    outside = (100 - PERCENTILE) / 2
    low, high = np.percentile(one.sample, (outside, 100 - outside))
    return min(float(low), 0.0), max(float(high), 0.0)


def _least_divergence(one: Activations) -> tuple[float, float]:
    """Return the clipped range with the minimum loss of information.

    The measure is the Kullback-Leibler divergence between the histogram of the values, clipped to the range, and the same
    histogram after quantization.
    """
    low, high = _extremes(one)
    largest = max(-low, high)
    if largest == 0:
        return low, high
    counts, edges = np.histogram(one.sample, _BINS, (low, high))
    best = (np.inf, low, high)
    for part in np.linspace(_MIN_PART, 1, _CANDIDATES)[::-1]:
        inside = (max(low, -part * largest), min(high, part * largest))
        divergence = _divergence(counts, edges, *inside)
        if divergence < best[0]:
            best = (divergence, *inside)
    return best[1], best[2]


def _least_squares(one: Activations) -> tuple[float, float]:
    """Return the range with the minimum squared error after the activation function.

    A LeakyReLU makes negative values ten times smaller, so clipping them allows finer steps above 0.
    """
    low, high = _extremes(one)
    step = max(1, one.sample.size // _VALUES)
    values = np.concatenate((one.sample[::step], (low, high))).astype(np.float64)
    wanted = np.where(values < 0, one.slope * values, values)
    best = (np.inf, low, high)
    parts = np.linspace(_MIN_END, 1, _ENDS)[::-1]
    for top in parts * high if high > 0 else (0.0,):
        for bottom in parts * low if low < 0 else (0.0,):
            scale = (top - bottom) / (LEVELS - 1)
            if scale <= 0:
                continue
            zero = round(-bottom / scale)
            seen = (np.clip(np.rint(values / scale) + zero, 0, LEVELS - 1) - zero) * scale
            error = float(np.square(np.where(seen < 0, one.slope * seen, seen) - wanted).mean())
            if error < best[0]:
                best = (error, float(bottom), float(top))
    return best[1], best[2]


def _slopes_behind(model: onnx.ModelProto) -> dict[str, float]:
    """Return the slope for negative values of each tensor that only a ReLU or LeakyReLU reads."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for name, nodes in readers.items():
        if len(nodes) == 1 and nodes[0].op_type in ("Relu", "LeakyRelu"):
            alpha = next((one.f for one in nodes[0].attribute if one.name == "alpha"), 0.01)
            found[name] = float(alpha) if nodes[0].op_type == "LeakyRelu" else 0.0
    return found


def _divergence(counts: NDArray[np.int64], edges: NDArray[np.float64], low: float, high: float) -> float:
    centers = (edges[:-1] + edges[1:]) / 2
    kept = (centers >= low) & (centers <= high)
    inner = counts[kept]
    if not inner.any():
        return np.inf
    clipped = inner.astype(np.float64)
    clipped[0] += counts[centers < low].sum()
    clipped[-1] += counts[centers > high].sum()
    level = np.minimum(((centers[kept] - low) * (LEVELS / (high - low))).astype(np.int64), LEVELS - 1)
    filled = inner > 0
    total = np.bincount(level, inner, LEVELS)
    bins = np.bincount(level, filled, LEVELS)
    seen = np.where(filled, (total / np.maximum(bins, 1))[level], 0.0)
    # A bin with clipped values only would be empty; a small number makes it count against the range.
    p, q = clipped / clipped.sum(), (seen + 1e-4) / (seen + 1e-4).sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())
