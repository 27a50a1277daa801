"""Accuracy of masks, keypoints and rotated boxes on annotated images, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from vision_infer.compare.details import rotated_ious, sigmas_of
from vision_infer.core.card import DetailKind, ModelCard
from vision_infer.core.details import RotatedBoxes
from vision_infer.core.detections import Detections
from vision_infer.core.errors import ModelError, UsageError

METRICS = tuple(f"AP{kind}" for kind in ("", "50", "75", "_small", "_medium", "_large"))
METRICS += tuple(f"AR_{kind}" for kind in ("1", "10", "100", "small", "medium", "large"))
"""COCO's twelve figures, in its order."""
_KEYPOINT_METRICS = (
    *("AP", "AP50", "AP75", "AP_medium", "AP_large"),
    *("AR", "AR50", "AR75", "AR_medium", "AR_large"),
)
_WORDS: dict[DetailKind, str] = {"keypoints": "keypoints", "masks": "masks", "rotated_boxes": "rotated boxes"}
_CORNERS = 8
"""The number of values of a polygon with four corners."""


@dataclass(frozen=True, slots=True)
class DetailAccuracy:
    """The accuracy of the details of a model."""

    kind: DetailKind
    figures: dict[str, float]
    """The figures by their names in COCO, in per cent; -1 without annotations of the kind."""
    table: str
    """The table of pycocotools."""

    @property
    def words(self) -> str:
        """The kind, in words."""
        return _WORDS[self.kind]


def detail_row(found: Detections, index: int) -> dict[str, Any]:
    """Return the fields of a result in COCO format from which pycocotools calculates the area: no box, except a rotated one."""
    assert found.details is not None
    fields = found.details.coco(index)
    row: dict[str, Any] = {name: fields[name] for name in ("segmentation", "keypoints") if name in fields}
    if isinstance(found.details, RotatedBoxes):
        x1, y1, x2, y2 = found.boxes[index].tolist()
        row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    return row


def check_annotations(card: ModelCard, truth: Any) -> bool:
    """Return whether annotations have the details of the model. Objects without keypoints get some that are not visible.

    Raises:
        ModelError: The annotations have another number of keypoints than the model.
        UsageError: Some objects have no mask or no rotated box, or the sizes of the images are missing.
    """
    field = "keypoints" if card.detail == "keypoints" else "segmentation"
    values = [one.get(field) for one in truth.anns.values()]
    if card.detail is None or not any(values):
        return False
    if card.keypoints is not None:
        points = len(card.keypoints.names)
        other = next((len(one) / 3 for one in values if one and len(one) != 3 * points), None)
        if other is not None:
            raise ModelError(
                f"{card.name} has {points} keypoints, but the annotations have {other:g}",
                "The keypoints must be those of the annotations, in the same order.",
            )
        for one in truth.anns.values():
            one["keypoints"] = one.get("keypoints") or [0] * (3 * points)
            one["num_keypoints"] = sum(visible > 0 for visible in one["keypoints"][2::3])
        return True
    if not all(values):
        raise UsageError(
            f"{sum(not one for one in values)} of {len(values)} annotations have no 'segmentation'",
            f"Add the {_WORDS[card.detail]} of all objects, or remove those of all.",
        )
    if card.detail == "masks" and not all("width" in image and "height" in image for image in truth.imgs.values()):
        raise UsageError("the images in the annotations have no width or height", "Masks need them; see COCO's format.")
    if card.detail == "rotated_boxes" and not all(isinstance(one, list) and len(one[0]) == _CORNERS for one in values):
        raise UsageError(
            "the annotations have polygons that do not have four corners",
            "Rotated boxes must be polygons of four corners in 'segmentation'.",
        )
    return True


def score_details(card: ModelCard, truth: Any, found: list[dict[str, Any]]) -> DetailAccuracy:
    """Compare the details of detections with annotations.

    Args:
        card: The model, with a detail.
        truth: The annotations of pycocotools, for which :func:`check_annotations` returned True.
        found: The results: the image, category and score, and the fields of :func:`detail_row`.
    """
    assert card.detail is not None
    names = _KEYPOINT_METRICS if card.detail == "keypoints" else METRICS
    if not found:
        return DetailAccuracy(card.detail, dict.fromkeys(names, 0.0), "nothing was found")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation(card, truth, truth.loadRes(found))
        evaluation.evaluate()
        evaluation.accumulate()
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        evaluation.summarize()
    figures = [float(value) for value in evaluation.stats]
    named = {name: 100 * value if value >= 0 else -1.0 for name, value in zip(names, figures, strict=True)}
    return DetailAccuracy(card.detail, named, table.getvalue().rstrip())


def _evaluation(card: ModelCard, truth: Any, results: Any) -> Any:
    from pycocotools.cocoeval import COCOeval

    if card.keypoints is not None:
        evaluation = COCOeval(truth, results, "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas_of(len(card.keypoints.names))
        return evaluation
    if card.detail == "masks":
        return COCOeval(truth, results, "segm")

    for one in results.anns.values():
        one["area"] = float(_rotated([one["segmentation"][0]])[0, 2:4].prod())

    class RotatedEvaluation(COCOeval):  # type: ignore[misc]
        """COCO's evaluation with the IoU of rotated boxes, which are polygons in both files."""

        def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802
            """Return the IoUs of the detections, best first, with the annotations."""
            real, seen = self._gts[image, category], self._dts[image, category]
            seen = sorted(seen, key=lambda one: -one["score"])[: self.params.maxDets[-1]]
            return rotated_ious(*(_rotated([one["segmentation"][0] for one in side]) for side in (seen, real))) if real else []

    return RotatedEvaluation(truth, results, "bbox")


def _rotated(polygons: list[list[float]]) -> Any:
    """Return rotated boxes float32 [N, 5] of rectangles, given by their corners in order."""
    corners = np.array(polygons, np.float64).reshape(-1, 4, 2)
    width, height = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]
    sides = [np.hypot(*width.T), np.hypot(*height.T), np.arctan2(width[:, 1], width[:, 0])]
    return np.column_stack([corners.mean(axis=1), *sides]).astype(np.float32)
