"""Where there are annotations, they judge: what an engine loses of COCO's mAP against FP32, with its interval."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.select import Selector, select
from vision_infer.core.card import ModelCard
from vision_infer.core.detections import Detections
from vision_infer.core.errors import ModelError, StreamError
from vision_infer.core.geometry import Letterbox, letterbox
from vision_infer.engine.engine import Engine, HostSlot
from vision_infer.precision.accuracy import EVALUATION_IOU, LOW_CONFIDENCE, category_ids, read_annotations
from vision_infer.precision.average_precision import average_precision, match_classes
from vision_infer.precision.verification.agreement import (
    FRAMES_NEEDED,
    LOW_SCORE,
    OBJECTS_NEEDED,
    Agreement,
    run_frames,
    select_all,
)
from vision_infer.precision.verification.drift import interval, sample_weights, see
from vision_infer.precision.verification.proof import Compare, open_reference
from vision_infer.precision.verification.vectors import Outputs
from vision_infer.stream.files.images import read_image
from vision_infer.stream.image import ArrayImage


def labelled_judge(annotations: Path, images: Path) -> Callable[[Path], tuple[Compare, str]]:
    """A judge by annotations, for :class:`vision_infer.precision.quantization.quantize.QuantizeRequest`.

    Args:
        annotations: ``instances.json``, COCO's form.
        images: folder of the pictures that it names.

    Raises:
        UsageError: pycocotools is missing, or the annotations cannot be read.
    """
    truth = read_annotations(annotations)

    def make(fp32: Path) -> tuple[Compare, str]:
        with open_reference(fp32) as engine:
            judge = LabelledJudge(engine, truth, images)
        return judge.compare, f"{annotations.name} ({len(judge.layouts)} annotated pictures)"

    return make


class LabelledJudge:
    """FP32's mAP on annotated pictures, with which other engines are compared; boxes around crowds are left out.

    Args:
        engine: FP32, open.
        truth: pycocotools' annotations.
        images: folder of the pictures.

    Raises:
        ModelError: the model is no detector, or its labels are not the annotations' categories.
        StreamError: a picture is missing or cannot be read.
    """

    def __init__(self, engine: Engine, truth: Any, images: Path) -> None:
        self._card = card = engine.card
        if card.task != "detect":
            raise ModelError(f"{card.name}: is for '{card.task}', and --labels are boxes", "leave --labels out")
        numbers = {category: number for number, category in category_ids(card, truth).items()}
        self.layouts: list[Letterbox] = []
        shape = (len(truth.getImgIds()), card.input.height, card.input.width, 3)
        # On the disk: the five thousand pictures of a usual set would be gigabytes of memory.
        with tempfile.TemporaryFile() as file:
            self._pixels = np.memmap(file, np.uint8, "w+", shape=shape)
        self._truth: list[Detections] = []
        for number, entry in enumerate(truth.loadImgs(truth.getImgIds())):
            path = images / entry["file_name"]
            if not path.is_file():
                raise StreamError(f"{path}: no such file", "--images must name the folder of the pictures of --labels")
            self._pixels[number] = self._read(path, card)
            boxes = truth.loadAnns(truth.getAnnIds(imgIds=entry["id"], iscrowd=False))
            corners = np.array([one["bbox"] for one in boxes], np.float32).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            kinds = np.array([numbers[one["category_id"]] for one in boxes], np.int32)
            self._truth.append(Detections(corners, np.ones(len(boxes), np.float32), kinds))
        self._weights = sample_weights(len(self._truth))
        outputs = run_frames(engine, list(self._pixels))
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
        """mAP, the mean over classes as COCO has it, for the pictures as they are and for each draw of them."""
        iou = None if self._card.iou is None else max(EVALUATION_IOU, self._card.iou)
        selector = Selector(LOW_CONFIDENCE, iou)
        found = [
            select((one["boxes"], one["scores"], one["class_ids"]), [layout], selector)[0]
            for one, layout in zip(outputs, self.layouts, strict=True)
        ]
        by_class = [average_precision(one, self._weights) for one in match_classes(self._truth, found).values()]
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nanmean(by_class, axis=0))

    def compare(self, engine: Engine) -> Agreement:
        """What another engine loses."""
        outputs, card = run_frames(engine, list(self._pixels)), self._card
        theirs = self._measure(outputs)
        seen = None
        if any(map(len, self._shown)):
            seen = see(self._shown, select_all(outputs, self.layouts, card, LOW_SCORE), card.confidence, self._weights)
        objects = sum(map(len, self._truth))
        return Agreement(
            interval(100 * (self._own - theirs)),
            "points of mAP 0.50:0.95, judged by annotations",
            len(self._pixels),
            objects,
            len(self._pixels) >= FRAMES_NEEDED and objects >= OBJECTS_NEEDED,
            {"map_fp32": 100 * float(self._own[0]), "map": 100 * float(theirs[0])},
            drift=None if seen is None else seen.drift,
        )
