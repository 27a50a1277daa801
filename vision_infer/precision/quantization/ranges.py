"""The ranges of a network's activations on calibration frames, by four methods.

One pass over the frames gives, for each tensor, its exact extremes and a sample of its values; what a method makes of them
costs no further pass. Memory is bounded: :data:`SAMPLES_PER_FRAME` values for each tensor and frame.
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
"""per cent of the values that stay inside the range, the rest on either side alike"""
LEVELS = 256
_BINS = 2048
_CANDIDATES = 64
"""thresholds that are tried for the least divergence"""
_MIN_PART = 0.2
"""of the largest absolute value, the lowest threshold that is tried"""
_ENDS = 16
"""places of either end that are tried for the least squared error"""
_MIN_END = 0.1
"""of either extreme, the lowest that is tried for it"""
_VALUES = 8192
"""of the sample, by which squared errors are compared"""


@dataclass(frozen=True, slots=True)
class Activations:
    """What one tensor held."""

    low: float
    high: float
    sample: NDArray[np.float32]
    """float32 [N], values at places spread over the tensor, of every frame"""
    slope: float = 1.0
    """by which the activation function behind it, if there is one, multiplies what is below 0: 0 for ReLU"""


def collect_activations(
    model: onnx.ModelProto, tensors: Iterable[str], frames: Iterable[NDArray[np.uint8]], where: str
) -> dict[str, Activations]:
    """Run the frames through a graph and look at some of its tensors.

    Args:
        model: a deployment graph.
        tensors: names of float32 tensors inside it.
        frames: uint8 [H, W, 3] each, as they lie in slots.
        where: names the model in an error.

    Raises:
        ModelError: a tensor holds a value that is not finite, or there are no frames.
    """
    names = sorted(set(tensors))
    session = _open(model, names)
    spread = np.random.default_rng(0)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    samples: list[list[NDArray[np.float32]]] = [[] for _ in names]
    for frame in frames:
        for number, values in enumerate(session.run(names, {"images": frame[None]})):
            flat = values.reshape(-1)
            low[number], high[number] = min(low[number], flat.min()), max(high[number], flat.max())
            step = max(1, flat.size // SAMPLES_PER_FRAME)
            samples[number].append(flat[int(spread.integers(step)) :: step][:SAMPLES_PER_FRAME].copy())
    if names and not samples[0]:
        raise ModelError(f"{where}: there are no frames to calibrate on", "give some with --data")
    broken = ~(np.isfinite(low) & np.isfinite(high))
    if broken.any():
        name = names[int(broken.argmax())]
        raise ModelError(f"{where}: the tensor '{name}' holds values that are not finite", "is the network whole? run it in FP32")
    slopes = _slopes_behind(model)
    return {
        name: Activations(float(low[number]), float(high[number]), np.concatenate(samples[number]), slopes.get(name, 1.0))
        for number, name in enumerate(names)
    }


def find_ranges(activations: Mapping[str, Activations], method: Method) -> dict[str, tuple[float, float]]:
    """The range of each tensor, which always holds 0."""
    methods = {"minmax": _extremes, "percentile": _percentile, "entropy": _least_divergence, "squares": _least_squares}
    find = methods[method]
    return {name: find(one) for name, one in activations.items()}


def _open(model: onnx.ModelProto, names: list[str]) -> Any:
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
    """Of ranges that are cut at some threshold on both sides, that whose levels tell least less than the values do.

    The measure is the Kullback-Leibler divergence of the values' histogram, what is outside counted at the range's ends, from the
    same histogram seen through the levels.
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
    """The range whose 256 levels come nearest to the values, as they are behind the activation function.

    Values below 0 that a LeakyReLU makes ten times smaller need no levels of their own so much: the range is cut there, and the
    steps above 0 become finer.
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
    """Of each tensor that nothing but a ReLU or LeakyReLU reads: what it multiplies values below 0 by."""
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
    centres = (edges[:-1] + edges[1:]) / 2
    kept = (centres >= low) & (centres <= high)
    inner = counts[kept]
    if not inner.any():
        return np.inf
    told = inner.astype(np.float64)
    told[0] += counts[centres < low].sum()
    told[-1] += counts[centres > high].sum()
    level = np.minimum(((centres[kept] - low) * (LEVELS / (high - low))).astype(np.int64), LEVELS - 1)
    filled = inner > 0
    total = np.bincount(level, inner, LEVELS)
    bins = np.bincount(level, filled, LEVELS)
    seen = np.where(filled, (total / np.maximum(bins, 1))[level], 0.0)
    # A bin that holds outsiders only is seen as nothing: a small number stands for it, so that it counts against the range.
    p, q = told / told.sum(), (seen + 1e-4) / (seen + 1e-4).sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())
