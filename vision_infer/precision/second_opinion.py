"""A second model or engine that looks at the images of a run: the frames on which it differs are worth labeling."""

from __future__ import annotations

from dataclasses import replace

from vision_infer.compare.detections import compare, renumbered
from vision_infer.config.run import RunSettings
from vision_infer.core.image import Image
from vision_infer.core.result import Result
from vision_infer.model.catalog import model_card
from vision_infer.pipeline.runs.api import Detector

SAME_IOU = 0.5
"""The minimum IoU of two boxes of the same object."""


class SecondOpinion:
    """Returns the difference between a result and the detections of the second model on the same image.

    Args:
        settings: The settings of the run. The second model has the same confidence, classes and region.

    Raises:
        VisionInferError: The model or the engine does not exist, or is not for detection.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._labels = model_card(settings.model, settings.model_dir).labels or ()
        self._detector = Detector(
            settings.sample_model or settings.model,
            confidence=settings.confidence,
            iou=settings.iou,
            classes=settings.classes,
            per_class=settings.per_class,
            min_size=settings.min_size,
            region=settings.region,
            tiles=None if settings.tiles is None else settings.tiles.model_dump(exclude_none=True),
            crop_region=settings.crop_region,
            device=settings.device,
            engine=settings.sample_engine or "auto",
            threads=settings.threads,
            model_dir=settings.model_dir,
        )

    def __call__(self, result: Result, image: Image) -> tuple[float, float]:
        """Return the number of detections that only one model has, and the difference of the others in score and IoU."""
        found = renumbered(self._detector(image.to_rgb()), self._detector.labels, self._labels)
        return compare(replace(result.detections, details=None), replace(found, details=None), SAME_IOU).size
