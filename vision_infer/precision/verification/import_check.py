"""Verification of imports: each deployment graph must give the same results as the raw model, on images alone and in batches.

The raw model's outputs are decoded in NumPy by the head's ``reference``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import FixedBatchError, ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.runtimes.raw_model import RawSession
from vision_infer.model.importing import Proposal
from vision_infer.model.network import is_channels_last
from vision_infer.model.reference import Arrays
from vision_infer.precision.verification.comparison import (
    BATCHES,
    COARSE,
    IMAGES,
    GraphVerification,
    choose_images,
    compared_as,
    decode,
    fit_images,
    nearest,
    normalize,
    require_numbers,
    run_batches,
)

BOX_TOLERANCE = 1e-2
"""The maximum difference of boxes, in input pixels."""
UNTRAINED_BOX_TOLERANCE = 1e-1
"""The same for a model with random weights, which amplifies the last bit of its input more."""
SCORE_TOLERANCE = 1e-5
PIXEL_TOLERANCE = 1e-3
"""The maximum share of pixels with another class: two scores that are nearly equal may change places."""
EMBEDDING_TOLERANCE = 1e-3
"""The maximum difference of an embedding's values, as a share of the largest: the cosine changes by less than a millionth."""
HALF_BOX_TOLERANCE, HALF_SCORE_TOLERANCE = 1 / 128, 4e-3
"""The same for a model in float16, as a share of the input and as a score: other nodes around it round its 11 bits elsewhere."""


class _Tolerance(NamedTuple):
    """The maximum difference of boxes, in input pixels, and of scores, or of an embedding's values as a share of the largest."""

    boxes: float
    scores: float


def verify_import(
    proposal: Proposal, images: Sequence[NDArray[np.uint8]] | None = None, untrained: bool = False
) -> list[GraphVerification]:
    """Run each graph of a proposed model, and the raw model that it was made from, on the same images.

    Args:
        proposal: The model, not yet in its place.
        images: The images, uint8 [H, W, 3] RGB each; None: synthetic ones.
        untrained: Whether the weights are random.

    Returns:
        A verification for each input size.

    Raises:
        ModelError: The results differ, or one of the two cannot be run or gives NaN.
    """
    chosen, text = choose_images(images)
    verified = []
    for size, path in proposal.graphs.items():
        fitted = fit_images(chosen, size, proposal.card)
        values = {"embed": EMBEDDING_TOLERANCE, "segment": PIXEL_TOLERANCE}.get(compared_as(proposal.card), SCORE_TOLERANCE)
        tolerance = _Tolerance(UNTRAINED_BOX_TOLERANCE if untrained else BOX_TOLERANCE, values)
        if proposal.half:
            tolerance = _Tolerance(HALF_BOX_TOLERANCE * max(size.width, size.height), max(values, HALF_SCORE_TOLERANCE))
        graph = RawSession(path)
        batches = BATCHES if proposal.card.max_batch is None else (proposal.card.max_batch,)
        ran = run_batches(graph, fitted, batches)
        results = ((count, index, require_numbers(found, proposal.where)) for count, index, found in ran)
        alone = [next(results) for _ in range(IMAGES)]
        _check_values([found for _, _, found in alone], size, proposal)
        expected, against = _expected(proposal, size, fitted, [found for _, _, found in alone], tolerance)
        worst = [0.0, 0.0]
        for count, index, found in chain(alone, results):
            differences = _differences(found, expected[index], tolerance)
            _check(proposal, size, count, differences, tolerance)
            worst = [max(pair) for pair in zip(worst, differences, strict=True)]
        boxes, scores = worst
        verified.append(
            GraphVerification(proposal.where, size, text, against, compared_as(proposal.card), boxes, scores, batches=batches)
        )
    return verified


def _expected(
    proposal: Proposal, size: Size, images: NDArray[np.uint8], alone: list[Arrays], tolerance: _Tolerance
) -> tuple[list[Arrays], str]:
    """Return what the graph must give for each image, and the source of these values."""
    raw, card = proposal.raws.get(size), proposal.card
    if raw is None:
        return alone, "its own results on single images, because the file is a deployment graph"
    session = RawSession(raw)
    runs = [require_numbers(session.run(_feeds(session, image, size, card)), proposal.where) for image in images]
    try:
        decoded = decode(proposal, size, {name: _stacked([run[name][:1] for run in runs]) for name in runs[0]})
    except (ValueError, IndexError, StopIteration) as error:
        message = f"{proposal.where}: the outputs cannot be read as those of head '{card.head}': {error}"
        raise ModelError(message, "Check that the model is of that family; see --head, --labels and --scores.") from error
    # All boxes that the graph may contain: scores that are nearly equal come in any order.
    lowest = [float(found["scores"].min()) - tolerance.scores if "scores" in found else 0.0 for found in alone]
    source = "the raw model" if raw.name == proposal.where else "the raw model, rewritten for this size"
    return [decoded(index, lowest[index]) for index in range(IMAGES)], source


def _stacked(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays [1, N, …] as one; those with fewer rows, where NMS inside the model selects them, are filled with zeros."""
    rows = max(array.shape[1] for array in arrays)
    return np.concatenate([np.pad(one, [(0, 0), (0, rows - one.shape[1]), *[(0, 0)] * (one.ndim - 2)]) for one in arrays])


def _feeds(session: RawSession, image: NDArray[np.uint8], size: Size, card: ModelCard) -> Arrays:
    """Return the raw model's inputs for one image."""
    values = normalize(image, card)
    feeds: Arrays = {}
    for name, (shape, dtype) in session.inputs.items():
        pixels = values.transpose(1, 2, 0) if is_channels_last(shape) else values
        value = pixels[None].astype(dtype) if len(shape) == 4 else np.array([[size.width, size.height]]).astype(dtype)
        feeds[name] = value.repeat(shape[0] or 1, axis=0)  # a file with a fixed batch gets the same image in all places
    return feeds


def _check_values(alone: list[Arrays], size: Size, proposal: Proposal) -> None:
    """Check what must hold independently of the reference: scores in 0–1, boxes in pixels, embeddings of length 1."""
    where = proposal.where
    if "embedding" in alone[0]:
        if not all(np.allclose(np.linalg.norm(found["embedding"]), 1, atol=1e-4) for found in alone):
            hint = "Check that the model is an embedder, and its normalization."
            raise ModelError(f"{where}: the embedding is a vector of zeros", hint)
        return
    if "scores" not in alone[0]:
        return
    low, high = (float(best([best(found["scores"]) for found in alone])) for best in (np.min, np.max))
    if low < -SCORE_TOLERANCE or high > 1 + SCORE_TOLERANCE:
        message = f"{where}: the scores are between {low:.3g} and {high:.3g}, so they are not probabilities"
        raise ModelError(message, "Add --scores sigmoid or --scores softmax, or choose another --head.")
    far = max(float(np.abs(found["boxes"]).max()) for found in alone) if "boxes" in alone[0] else 0.0
    if proposal.card.head == "detr" and far > 10 * max(size.width, size.height):
        message = f"{where}: the boxes extend to {far:.0f} pixels, so the model's boxes are not fractions of the input"
        raise ModelError(message, "Check that the model is of head 'detr'.")
    points = [found["keypoints"][..., 2] for found in alone if "keypoints" in found]
    if points and (np.min(points) < -SCORE_TOLERANCE or np.max(points) > 1 + SCORE_TOLERANCE):
        message = f"{where}: the scores of keypoints are between {np.min(points):.3g} and {np.max(points):.3g}, not 0 to 1"
        raise ModelError(message, "Check the number of keypoints on the card (--keypoints), or export the model with scores.")
    if proposal.card.head.startswith(("yolov5", "yolov8", "end2end")) and far <= 2:
        message = f"{where}: no coordinate of a box is above 2, so the boxes are fractions of the input instead of pixels"
        raise ModelError(message, "Export the model with boxes in pixels.")


def _differences(found: Arrays, expected: Arrays, tolerance: _Tolerance) -> tuple[float, float]:
    """Return the largest difference of boxes and of values; infinite if a class is missing."""
    if "boxes" not in found:
        (name,) = found
        if name in ("classes", "probabilities"):
            return 0.0, float((found[name] != expected[name]).mean())
        apart = np.abs(found[name] - expected[name])
        if name == "keypoints":
            return float(apart[..., :2].max()), float(apart[..., 2].max())
        unit = float(np.abs(expected[name]).max()) if name == "embedding" else 1.0
        return 0.0, float(apart.max()) / unit
    count = len(found["scores"])
    best = {name: array[:count] for name, array in expected.items() if name != "prototypes"}
    last = best["scores"][-1] if len(best["scores"]) else 0.0
    # A box with the last score may be replaced by another one of the same score.
    sure = best["scores"] > last + tolerance.scores if len(expected["scores"]) > count else np.ones(len(best["scores"]), bool)
    there = nearest(found, expected, tolerance.boxes, tolerance.scores)
    back = nearest({name: array[sure] for name, array in best.items()}, found, tolerance.boxes, tolerance.scores)
    boxes, scores = (float(np.concatenate(pair).max(initial=0.0)) for pair in zip(there[:2], back[:2], strict=True))
    if "prototypes" in found:
        scores = max(scores, float(np.abs(found["prototypes"] - expected["prototypes"]).max()) / COARSE)
    return boxes, scores


def _check(proposal: Proposal, size: Size, count: int, differences: tuple[float, float], tolerance: _Tolerance) -> None:
    boxes, values = differences
    if boxes <= tolerance.boxes and values <= tolerance.scores:
        return
    seen = "a class is missing" if np.isinf(boxes) else f"boxes differ by {boxes:.2g} px, values by {values:.2g}"
    if compared_as(proposal.card) not in ("detect", "keypoints"):
        seen = f"values differ by {values:.2g}" + (" of the largest" if proposal.card.task == "embed" else "")
    if count == 1:
        message = f"{proposal.where}: the results of the graph differ from those of the raw model at {size}: {seen}"
        hint = f"Check that the model is of head '{proposal.card.head}'; see --head, --labels and --scores."
        raise ModelError(message, hint)
    message = f"{proposal.where}: the results in a batch of {count} differ from those of single images: {seen}"
    raise FixedBatchError(message, "The batch is fixed inside the model. Export it with a dynamic batch.")
