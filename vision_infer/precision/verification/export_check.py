"""Verification of exports: the deployment graph, run by ONNX Runtime, must give the same results as the model in PyTorch.

PyTorch's outputs are decoded in NumPy by the head's ``reference``. Two programs add up in different orders, so the last digits
differ, and where scores are nearly equal a model that selects boxes itself (a DETR) may select another query. So the
verification counts the results that agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.runtimes.raw_model import RawSession
from vision_infer.model.export.exporting import Run
from vision_infer.model.importing import Proposal
from vision_infer.model.reference import Arrays
from vision_infer.precision.verification.comparison import (
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

BOX_TOLERANCE = 1e-3
"""The maximum difference of boxes, as a share of the input's longer side."""
SCORE_TOLERANCE = 1e-3
MIN_AGREEMENT = 99.9
"""The minimum percentage of boxes, and of pixels, that must agree; all classes, embeddings and keypoints must agree."""
KEYPOINT_TOLERANCE = 0.5
"""The maximum distance of keypoints, pixels of the input."""
MIN_MASK_IOU = 0.99
"""The minimum mean IoU of masks."""


def verify_export(
    proposal: Proposal, runs: Mapping[Size, Run], images: Sequence[NDArray[np.uint8]] | None = None
) -> list[GraphVerification]:
    """Run each graph of a proposed model, and the model in PyTorch, on the same images.

    Args:
        proposal: The model, not yet in its place.
        runs: The model in PyTorch, by input size.
        images: The images, uint8 [H, W, 3] RGB each; None: synthetic ones.

    Returns:
        A verification for each input size.

    Raises:
        ModelError: The results differ, or PyTorch gives NaN.
    """
    chosen, text = choose_images(images)
    verified = []
    for size, run in runs.items():
        fitted = fit_images(chosen, size, proposal.card)
        rows = [run(normalize(image, proposal.card)[None]) for image in fitted]
        outputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        expected = decode(proposal, size, require_numbers(outputs, f"{proposal.where} in PyTorch"))
        limit = BOX_TOLERANCE * max(size.width, size.height)
        total = _Comparison(
            compared_as(proposal.card), limit if proposal.card.keypoints is None else min(limit, KEYPOINT_TOLERANCE)
        )
        for _, index, found in run_batches(RawSession(proposal.graphs[size]), fitted):
            total.add(found, index, expected)
        figures = (compared_as(proposal.card), total.boxes, total.values, total.agreement, total.compared)
        verified.append(GraphVerification(proposal.where, size, text, "PyTorch", *figures, mask_iou=total.mask_iou))
        _check(verified[-1])
    return verified


class _Comparison:
    """The totals of all comparisons so far."""

    def __init__(self, task: str, box_tolerance: float) -> None:
        self._task = task
        self._box_tolerance = box_tolerance
        self.boxes = self.values = 0.0
        self.compared = self._same = 0
        self._mask_ious: list[float] = []

    @property
    def agreement(self) -> float:
        """The percentage of results that agree."""
        return 100 * self._same / self.compared if self.compared else 0.0

    @property
    def mask_iou(self) -> float | None:
        """The mean IoU of the masks of boxes that agree; None without masks."""
        return float(np.mean(self._mask_ious)) if self._mask_ious else None

    def add(self, found: Arrays, image: int, expected: Callable[[int, float], Arrays]) -> None:
        """Compare the graph's results for an image."""
        if self._task == "detect":
            truth = expected(image, float(found["scores"].min()) - SCORE_TOLERANCE)
            # A box near the last score may be replaced by another one of the same score.
            sure = truth["scores"] > found["scores"].min() + SCORE_TOLERANCE
            same, index = self._match(found, truth)
            self._match({name: array[sure] for name, array in truth.items() if name != "prototypes"}, found)
            if "prototypes" in truth:
                self._mask_ious += _mask_ious(_masks(found, np.flatnonzero(same)), _masks(truth, index[same]))
            return
        (name,) = found
        ours, theirs = found[name].astype(np.float64), expected(image, 0.0)[name]
        apart = np.abs(ours - theirs)
        if self._task == "segment":
            self.compared, self._same = self.compared + apart.size, self._same + int((apart == 0).sum())
            self.values = max(self.values, float((apart > 0).mean()))
            return
        if self._task == "keypoints":
            near = (apart[..., :2].max(axis=-1) <= KEYPOINT_TOLERANCE) & (apart[..., 2] <= SCORE_TOLERANCE)
            self.compared, self._same = self.compared + near.size, self._same + int(near.sum())
            self.boxes, self.values = max(self.boxes, float(apart[..., :2].max())), max(self.values, float(apart[..., 2].max()))
            return
        difference = float(apart.max())
        self.values = max(self.values, difference)
        best = theirs[ours.argmax()] >= theirs.max() - SCORE_TOLERANCE
        self._same += bool(best) if self._task == "classify" else difference <= SCORE_TOLERANCE
        self.compared += 1

    def _match(self, left: Arrays, right: Arrays) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Count the boxes on the left that agree with one on the right; return whether each does, and the index of that one."""
        box, score, index = nearest(left, right, self._box_tolerance, SCORE_TOLERANCE)
        same = (box <= self._box_tolerance) & (score <= SCORE_TOLERANCE)
        self.compared += len(same)
        self._same += int(same.sum())
        self.boxes = max(self.boxes, float(box[same].max(initial=0)))
        self.values = max(self.values, float(score[same].max(initial=0)))
        return same, index


def _masks(arrays: Arrays, chosen: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return the masks of the chosen boxes, bool [n, h · w]."""
    prototypes = arrays["prototypes"]
    return np.asarray(arrays["coefficients"][chosen] @ prototypes.reshape(len(prototypes), -1) > 0)


def _mask_ious(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> list[float]:
    """Return the IoU of each pair of masks; 1 if both are empty."""
    both, either = (ours & theirs).sum(axis=1), (ours | theirs).sum(axis=1)
    ious: list[float] = np.where(either, both / np.maximum(either, 1), 1.0).tolist()
    return ious


def _check(verified: GraphVerification) -> None:
    counted = verified.task in ("detect", "segment")
    masks = verified.mask_iou is None or verified.mask_iou >= MIN_MASK_IOU
    if masks and verified.agreement >= (MIN_AGREEMENT if counted else 100.0) and (counted or verified.values <= SCORE_TOLERANCE):
        return
    seen = f"{verified.agreement:.4g} % of {verified.compared} agree, values differ by up to {verified.values:.2g}"
    seen += "" if masks else f", the masks have a mean IoU of {verified.mask_iou:.3f}"
    message = f"{verified.where}: the results of the graph differ from those of PyTorch at {verified.size}: {seen}"
    raise ModelError(message, "Try another --opset, and report the problem.")
