"""Loss of accuracy against annotations: the difference of COCO's mAP between FP32 and an engine, with its interval."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.detections import Detections
from vision_infer.core.errors import ModelError, StreamError
from vision_infer.core.geometry import Letterbox, letterbox
from vision_infer.engine.engine import Engine, HostSlot
from vision_infer.precision.accuracy import EVALUATION_IOU, LOW_CONFIDENCE, category_ids, read_annotations
from vision_infer.precision.average_precision import average_precision, match_classes
from vision_infer.precision.verification.agreement import (
    LOW_SCORE,
    MIN_FRAMES_TO_JUDGE,
    MIN_OBJECTS_TO_JUDGE,
    Agreement,
    run_detector,
    select_all,
)
from vision_infer.precision.verification.drift import compare_at_threshold, interval, sample_weights
from vision_infer.precision.verification.engine_check import Compare, open_reference
from vision_infer.precision.verification.vectors import Outputs
from vision_infer.stream.files.images import read_image
from vision_infer.stream.image import ArrayImage


def labeled_judge(annotations: Path, images: Path) -> Callable[[Path], tuple[Compare, str]]:
    """Return a judge by annotations, for :class:`vision_infer.precision.quantization.quantize.QuantizeRequest`.

    Args:
        annotations: The file ``instances.json`` in COCO format.
        images: The folder of its images.

    Raises:
        UsageError: pycocotools is missing, or the annotations cannot be read.
    """
    truth = read_annotations(annotations)

    def make(fp32: Path) -> tuple[Compare, str]:
        with open_reference(fp32) as engine:
            judge = LabeledJudge(engine, truth, images)
        return judge.compare, f"{annotations.name} ({len(judge.layouts)} annotated images)"

    return make


class LabeledJudge:
    """The mAP of FP32 on annotated images, with which other engines are compared; boxes of crowds are ignored.

    Args:
        engine: The open FP32 engine.
        truth: The annotations of pycocotools.
        images: The folder of the images.

    Raises:
        ModelError: The model is not a detector, or its labels are not the annotations' categories.
        StreamError: An image is missing or cannot be read.
    """

    def __init__(self, engine: Engine, truth: Any, images: Path) -> None:
        self._card = card = engine.card
        if card.task != "detect":
            raise ModelError(f"{card.name}: the task is '{card.task}', but --labels has boxes", "Remove --labels.")
        numbers = {category: number for number, category in category_ids(card, truth).items()}
        self.layouts: list[Letterbox] = []
        shape = (len(truth.getImgIds()), card.input.height, card.input.width, 3)
        # On disk, because the 5,000 images of COCO would need gigabytes of memory.
        with tempfile.TemporaryFile() as file:
            self._pixels = np.memmap(file, np.uint8, "w+", shape=shape)
        self._truth: list[Detections] = []
        for number, entry in enumerate(truth.loadImgs(truth.getImgIds())):
            path = images / entry["file_name"]
            if not path.is_file():
                raise StreamError(f"{path}: no such file", "--images must be the folder of the images in --labels.")
            self._pixels[number] = self._read(path, card)
            boxes = truth.loadAnns(truth.getAnnIds(imgIds=entry["id"], iscrowd=False))
            corners = np.array([one["bbox"] for one in boxes], np.float32).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            kinds = np.array([numbers[one["category_id"]] for one in boxes], np.int32)
            self._truth.append(Detections(corners, np.ones(len(boxes), np.float32), kinds))
        self._weights = sample_weights(len(self._truth))
        outputs, self._details = run_detector(engine, list(self._pixels), self.layouts)
        self._own = self._measure(outputs)
        self._shown = select_all(outputs, self.layouts, card, card.confidence)

    def _read(self, path: Path, card: ModelCard) -> NDArray[np.uint8]:
        image = ArrayImage(read_image(str(path)))
        slot = HostSlot(np.zeros((card.input.height, card.input.width, 3), np.uint8))
        layout = letterbox(image.size, card.input_size, card.fit, card.fill)
        image.write_into(slot, layout)
        self.layouts.append(layout)
        return slot.pixels

    def _measure(self, outputs: Sequence[Outputs]) -> NDArray[np.float64]:
        """Return COCO's mAP, the mean over classes, for the rows of the weights."""
        iou = None if self._card.iou is None else max(EVALUATION_IOU, self._card.iou)
        found = select_all(outputs, self.layouts, self._card.model_copy(update={"iou": iou}), LOW_CONFIDENCE)
        by_class = [average_precision(one, self._weights) for one in match_classes(self._truth, found).values()]
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nanmean(by_class, axis=0))

    def compare(self, engine: Engine) -> Agreement:
        """Compare an engine with FP32."""
        (outputs, details), card = run_detector(engine, list(self._pixels), self.layouts), self._card
        theirs = self._measure(outputs)
        seen = None
        if any(map(len, self._shown)):
            low = select_all(outputs, self.layouts, card, LOW_SCORE)
            seen = compare_at_threshold(self._shown, low, card.confidence, self._weights, (self._details, details))
        objects = sum(map(len, self._truth))
        return Agreement(
            interval(100 * (self._own - theirs)),
            "points of mAP 0.50:0.95, judged by annotations",
            len(self._pixels),
            objects,
            len(self._pixels) >= MIN_FRAMES_TO_JUDGE and objects >= MIN_OBJECTS_TO_JUDGE,
            {"map_fp32": 100 * float(self._own[0]), "map": 100 * float(theirs[0])},
            drift=None if seen is None else seen.drift,
        )
