"""The ranges of a network's activations on calibration frames, by three methods.

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
from vision_infer.engine.device import load_onnxruntime

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
SAMPLES_PER_FRAME = 2048
PERCENTILE = 99.99
"""per cent of the values that stay inside the range, the rest on either side alike"""
LEVELS = 256
_BINS = 2048
_CANDIDATES = 64
"""thresholds that are tried for the least divergence"""
_LEAST_PART = 0.2
"""of the largest absolute value, the lowest threshold that is tried"""


@dataclass(frozen=True, slots=True)
class Activations:
    """What one tensor held."""

    low: float
    high: float
    sample: NDArray[np.float32]
    """float32 [N], values at places spread over the tensor, of every frame"""


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
    return {
        name: Activations(float(low[number]), float(high[number]), np.concatenate(samples[number]))
        for number, name in enumerate(names)
    }


def find_ranges(activations: Mapping[str, Activations], method: Method) -> dict[str, tuple[float, float]]:
    """The range of each tensor, which always holds 0."""
    find = {"minmax": _extremes, "percentile": _percentile, "entropy": _least_divergence}[method]
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
    for part in np.linspace(_LEAST_PART, 1, _CANDIDATES)[::-1]:
        inside = (max(low, -part * largest), min(high, part * largest))
        divergence = _divergence(counts, edges, *inside)
        if divergence < best[0]:
            best = (divergence, *inside)
    return best[1], best[2]


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
