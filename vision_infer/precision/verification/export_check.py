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
MIN_AGREEMENT = {"detect": 99.0, "segment": 99.9}
"""The minimum percentage of boxes, and of pixels, that must agree; all classes, embeddings and keypoints must agree."""
KEYPOINT_TOLERANCE = 0.5
"""The maximum distance of keypoints, pixels of the input."""
MIN_MASKS = 99.9
"""The minimum percentage of the values of prototypes that are on the same side of 0, where masks end."""


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
        total = _Comparison(proposal.card.task, BOX_TOLERANCE * max(size.width, size.height))
        for _, index, found in run_batches(RawSession(proposal.graphs[size]), fitted):
            total.add(found, index, expected)
        figures = (proposal.card.task, total.boxes, total.values, total.agreement, total.compared)
        verified.append(GraphVerification(proposal.where, size, text, "PyTorch", *figures))
        _check(verified[-1])
        if total.masks < MIN_MASKS:
            share = f"{total.masks:.4g} % of the masks' values agree"
            message = f"{proposal.where}: the masks of the graph differ from those of PyTorch at {size}: {share}"
            raise ModelError(message, "Try another --opset, and report the problem.")
    return verified


class _Comparison:
    """The totals of all comparisons so far."""

    def __init__(self, task: str, box_tolerance: float) -> None:
        self._task = task
        self._box_tolerance = box_tolerance
        self.boxes = self.values = 0.0
        self.masks = 100.0
        """The smallest percentage of the values of an image's prototypes with the sign of PyTorch's."""
        self.compared = self._same = 0

    @property
    def agreement(self) -> float:
        """The percentage of results that agree."""
        return 100 * self._same / self.compared if self.compared else 0.0

    def add(self, found: Arrays, image: int, expected: Callable[[int, float], Arrays]) -> None:
        """Compare the graph's results for an image."""
        if self._task == "detect":
            truth = expected(image, float(found["scores"].min()) - SCORE_TOLERANCE)
            # A box near the last score may be replaced by another one of the same score.
            sure = truth["scores"] > found["scores"].min() + SCORE_TOLERANCE
            self._match(found, truth)
            self._match({name: array[sure] for name, array in truth.items() if name != "prototypes"}, found)
            if "prototypes" in truth:
                self.masks = min(self.masks, 100 * float(((found["prototypes"] > 0) == (truth["prototypes"] > 0)).mean()))
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

    def _match(self, left: Arrays, right: Arrays) -> None:
        box, score = nearest(left, right, self._box_tolerance, SCORE_TOLERANCE)
        same = (box <= self._box_tolerance) & (score <= SCORE_TOLERANCE)
        self.compared += len(same)
        self._same += int(same.sum())
        self.boxes = max(self.boxes, float(box[same].max(initial=0)))
        self.values = max(self.values, float(score[same].max(initial=0)))


def _check(verified: GraphVerification) -> None:
    minimum = MIN_AGREEMENT.get(verified.task)
    if verified.agreement >= (minimum or 100.0) and (minimum is not None or verified.values <= SCORE_TOLERANCE):
        return
    seen = f"{verified.agreement:.4g} % of {verified.compared} agree, values differ by up to {verified.values:.2g}"
    message = f"{verified.where}: the results of the graph differ from those of PyTorch at {verified.size}: {seen}"
    raise ModelError(message, "Try another --opset, and report the problem.")
