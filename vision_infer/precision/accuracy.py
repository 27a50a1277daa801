"""Accuracy of a model on annotated images, with the complete pipeline of a run.

The metric of detectors is COCO's (Lin et al., ECCV 2014; pycocotools): average precision over IoU 0.50:0.95, at most 100 boxes
per image. That of semantic segmentation is the mean IoU of its classes.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vision_infer.config.run import RunSettings
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError, StreamError, UsageError
from vision_infer.core.packages import install
from vision_infer.core.result import Result
from vision_infer.engine.open import open_engine
from vision_infer.model.catalog import resolve_model
from vision_infer.pipeline.channel import ResultChannel
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.runs.run_factories import make_lane, make_supervisor, request_on_one_device
from vision_infer.precision.detail_accuracy import METRICS, DetailAccuracy, check_annotations, detail_row, score_details
from vision_infer.precision.segment_accuracy import score_segments
from vision_infer.stream.source import SourceSpec

LOW_CONFIDENCE = 0.001
"""The minimum confidence; average precision needs nearly all detections."""
EVALUATION_IOU = 0.65
"""The IoU threshold for NMS, which removes less than in a run for the same reason."""
CONFIDENCES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
"""The confidence thresholds for which precision and recall are reported."""
MATCH_IOU = 0.5
"""The IoU with an annotated box of the same class from which a detection counts as right, for precision and recall."""


@dataclass(frozen=True, slots=True)
class ThresholdAccuracy:
    """The detections with at least a confidence, compared with the annotated boxes."""

    confidence: float
    precision: float
    """The share of detections that are right, in per cent; 0 without detections."""
    recall: float
    """The share of annotated boxes that are found, in per cent."""

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, in per cent."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """The accuracy of a model on annotated images."""

    model: str
    engine: str
    images: int
    boxes: int
    """The number of annotated boxes."""
    figures: dict[str, float]
    """The figures by name of :data:`METRICS`, in per cent; -1 without annotations of the kind. For semantic segmentation mIoU."""
    table: str
    """The table of pycocotools, or the IoU of each class."""
    thresholds: tuple[ThresholdAccuracy, ...] = ()
    """Precision and recall by confidence threshold, to choose one."""
    details: DetailAccuracy | None = None
    """The accuracy of masks, keypoints or rotated boxes; None for a model or annotations without them."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        figures = {name: round(value, 2) for name, value in self.figures.items()}
        thresholds = [
            {"confidence": one.confidence, "precision": round(one.precision, 2), "recall": round(one.recall, 2)}
            for one in self.thresholds
        ]
        about = {"model": self.model, "engine": self.engine, "images": self.images, "boxes": self.boxes}
        more: dict[str, Any] = {}
        if self.details is not None:
            more = {self.details.kind: {name: round(value, 2) for name, value in self.details.figures.items()}}
        return {**about, **figures, "thresholds": thresholds, **more}


def evaluate(settings: RunSettings, annotations: Path, images: Path) -> AccuracyReport:
    """Measure a model on images with annotations in COCO format.

    Args:
        settings: The model and its engine; ``sources`` is not used.
        annotations: The file ``instances.json``.
        images: The folder of its images.

    Raises:
        UsageError: pycocotools is missing, or the annotations cannot be read.
        ModelError: The model's labels are not the annotations' categories, or it is for another task.
        StreamError: An image is missing or cannot be read.
    """
    truth = read_annotations(annotations)
    entries = truth.loadImgs(truth.getImgIds())
    paths = tuple(str(images / entry["file_name"]) for entry in entries)
    for path in paths:
        if not Path(path).is_file():
            raise StreamError(f"{path}: no such file", "--images must be the folder of the images in --data.")
    with open_engine(resolve_model(settings.model, settings.model_dir), request_on_one_device(settings)) as engine:
        if engine.card.task not in ("detect", "segment"):
            hint = "Choose a model for 'detect' or 'segment'."
            raise ModelError(f"{engine.card.name} is a model for '{engine.card.task}', which cannot be evaluated", hint)
        card, categories = engine.card, category_ids(engine.card, truth)
        with_details = check_annotations(card, truth)
        lane = make_lane(engine, _evaluation_settings(settings, engine.card))
        channel = ResultChannel(capacity=len(paths))
        with make_supervisor([lane], 1, [channel]) as supervisor:
            supervisor.add(AddStream(SourceSpec("images", "images", paths, folder=True), lane.name))
            supervisor.wait()
        supervisor_error = supervisor.error or next((record.error for record in supervisor.records() if record.error), None)
        if supervisor_error is not None:
            raise supervisor_error
        results = list(channel)
        if len(results) < len(paths):
            read = {result.file for result in results}
            missing = next((path for path in paths if Path(path).name not in read), paths[-1])
            raise StreamError(f"{missing}: the image cannot be read", "Check that it is a complete image file.")
        about = card.name, engine.name, len(paths), len(truth.getAnnIds())
        if card.task == "segment":
            seen = score_segments(card, truth, results, entries, categories)
            return AccuracyReport(*about, seen.figures, seen.table)
        found = [row for result in results for row in _coco_rows(result, entries[result.frame]["id"], categories)]
        details = None
        if with_details:
            rows = [row for result in results for row in _detail_rows(result, entries[result.frame]["id"], categories)]
            details = score_details(card, truth, rows)
        return AccuracyReport(*about, *_score(truth, found), details)


def _evaluation_settings(settings: RunSettings, card: ModelCard) -> RunSettings:
    confidence = LOW_CONFIDENCE if settings.confidence is None else settings.confidence
    iou = settings.iou
    if iou is None and card.iou is not None:
        iou = max(EVALUATION_IOU, card.iou)
    return settings.model_copy(update={"confidence": confidence, "iou": iou, "track": False})


def read_annotations(path: Path) -> Any:
    """Read annotations in COCO format with pycocotools.

    Raises:
        UsageError: pycocotools is missing, or the file cannot be read or has another format.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise UsageError("the evaluation needs pycocotools", install("evaluate")) from error
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = data
            truth.createIndex()
        if not truth.getImgIds() or not truth.getAnnIds():
            raise UsageError(f"{path}: the file has no images or no boxes", "Use annotations in COCO format (instances.json).")
        # Detect missing fields before the evaluation.
        _ = [Path(image["file_name"]) for image in truth.imgs.values()]
        for box in truth.anns.values():
            _ = [box["bbox"], box["area"], box["iscrowd"], truth.cats[box["category_id"]], truth.imgs[box["image_id"]]]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "Check --data.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not in COCO format", "Use annotations in COCO format (instances.json).") from error
    return truth


def category_ids(card: ModelCard, truth: Any) -> dict[int, int]:
    """Return the category of each class number with annotations, by name.

    Raises:
        ModelError: A category is not a label of the model.
    """
    by_name = {category["name"]: category["id"] for category in truth.loadCats(truth.getCatIds())}
    ids = {number: by_name[label] for number, label in enumerate(card.labels or ()) if label in by_name}
    missing = sorted(set(by_name) - set(card.labels or ()))
    if missing:
        raise ModelError(
            f"{card.name} has no label {', '.join(repr(name) for name in missing[:5])}",
            "The labels must be the annotations' names.",
        )
    return ids


def _coco_rows(result: Result, image_id: int, category_ids: dict[int, int]) -> list[dict[str, Any]]:
    found = result.detections
    rows = []
    for box, score, class_id in zip(found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True):
        category = category_ids.get(class_id)
        if category is not None:
            x1, y1, x2, y2 = box
            bbox = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": score})
    return rows


def _detail_rows(result: Result, image_id: int, category_ids: dict[int, int]) -> list[dict[str, Any]]:
    found = result.detections
    return [
        {"image_id": image_id, "category_id": category_ids[class_id], "score": score, **detail_row(found, index)}
        for index, (score, class_id) in enumerate(zip(found.scores.tolist(), found.class_ids.tolist(), strict=True))
        if class_id in category_ids and found.details is not None
    ]


def _score(truth: Any, found: list[dict[str, Any]]) -> tuple[dict[str, float], str, tuple[ThresholdAccuracy, ...]]:
    from pycocotools.cocoeval import COCOeval

    if not found:
        return dict.fromkeys(METRICS, 0.0), "nothing was found", ()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        evaluation.summarize()
    figures = [float(value) for value in evaluation.stats]
    named = {name: 100 * value if value >= 0 else -1.0 for name, value in zip(METRICS, figures, strict=True)}
    return named, table.getvalue().rstrip(), _by_threshold(evaluation)


def _by_threshold(evaluation: Any) -> tuple[ThresholdAccuracy, ...]:
    """Return precision and recall from the matches of pycocotools, over all images and classes together."""
    row = int(np.flatnonzero(np.isclose(evaluation.params.iouThrs, MATCH_IOU))[0])
    every_size = evaluation.params.areaRng[0]
    entries = [one for one in evaluation.evalImgs if one is not None and one["aRng"] == every_size]
    boxes = sum(int((np.asarray(one["gtIgnore"]) == 0).sum()) for one in entries)
    counted = [~np.asarray(one["dtIgnore"][row], bool) for one in entries]  # not those on crowds
    scores = np.concatenate([np.asarray(one["dtScores"], np.float64)[keep] for one, keep in zip(entries, counted, strict=True)])
    right = np.concatenate([np.asarray(one["dtMatches"][row])[keep] > 0 for one, keep in zip(entries, counted, strict=True)])
    found = []
    for confidence in CONFIDENCES:
        shown = scores >= confidence
        hits = int(right[shown].sum())
        precision = 100 * hits / int(shown.sum()) if shown.any() else 0.0
        found.append(ThresholdAccuracy(confidence, precision, 100 * hits / boxes if boxes else 0.0))
    return tuple(found)
