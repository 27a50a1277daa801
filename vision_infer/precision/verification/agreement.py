"""The loss of accuracy of an engine against FP32, on frames without annotations.

FP32 provides the ground truth. Its boxes on the same frame would be too strict: FP32 would have no errors, and each pixel of
difference would count as a loss, although FP32's own boxes are several pixels off. So the ground truth is FP32's confident boxes
on the *mirrored* frame, mirrored back, which differ from FP32's boxes about as much as annotations do. Against it, both FP32 and
the engine have an average precision. The share that the engine loses is about the share that it loses against annotations
(docs/explanation/precision.md has the figures). The loss in points is that share of the model's published mAP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.rotated import boxes_of_maps
from vision_infer.analyze.select import Selector, select
from vision_infer.compare.detections import compare
from vision_infer.core.card import ModelCard
from vision_infer.core.detections import Detections
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Letterbox
from vision_infer.engine.engine import Engine
from vision_infer.engine.store.passport import MeasuredAccuracy, MeasuredDrift, why_short
from vision_infer.precision.average_precision import match_classes, mean_precision
from vision_infer.precision.frames import FrameSet
from vision_infer.precision.quantization.recalibrate import Recalibration, fit
from vision_infer.precision.verification.drift import (
    FOUND_IOU,
    BootstrapInterval,
    ThresholdComparison,
    compare_at_threshold,
    interval,
    sample_weights,
)
from vision_infer.precision.verification.vectors import (
    Outputs,
    VectorComparison,
    compare_embeddings,
    compare_keypoints,
    compare_maps,
    compare_scores,
)

MIN_FRAMES_TO_JUDGE = 100
MIN_OBJECTS_TO_JUDGE = 100
"""The minimum number of FP32's objects; with fewer frames or objects a result is not conclusive."""
LOW_SCORE = 0.05
"""The minimum confidence of detections for the average precision."""
TYPICAL_MAP = 40.0
"""The mAP for models without one on their card."""
_BOX_OUTPUTS = ("boxes", "scores", "class_ids", "rotated_boxes")
"""The outputs that the selection of boxes needs."""
_COMPARE = {
    "classify": compare_scores,
    "embed": compare_embeddings,
    "segment": compare_maps,
    "keypoints": compare_keypoints,
}
"""The comparison of the outputs, by task."""
_MIN_JUDGE = 0.3
"""The minimum average precision of FP32 against its mirrored boxes; below it (for example with text) they are not used."""


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """The figures of one class."""

    label: str
    objects: int
    """The number of FP32's confident detections."""
    found: int
    """The number of those that the engine also finds."""
    count_change: int
    """The difference in the number of confident detections."""
    mean_iou: float
    """The mean IoU of the detections found by both; 0 without any."""
    score_change: float
    """The mean difference of their scores."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The loss of an engine against FP32."""

    lost: BootstrapInterval
    """The loss in points; negative if the engine is better than FP32."""
    metric: str
    """The meaning of a point, in words."""
    frames: int
    objects: int
    conclusive: bool
    """Whether there were enough frames and objects."""
    figures: Mapping[str, float]
    """The figures by name, for tables."""
    classes: tuple[ClassAgreement, ...] = ()
    worst: tuple[int, ...] = ()
    """The numbers of the frames that differ most, the worst first."""
    drift: MeasuredDrift | None = None
    """The changes of a detector at the model's confidence threshold."""

    def shortfall(self, budget: float) -> str:
        """Return why the loss exceeds a budget in points; empty if it does not."""
        lost = self.lost
        return why_short(lost.value, lost.low, lost.high, self.frames, self.drift, budget)

    def summary(self) -> str:
        """Return the loss in a few words."""
        count = "" if self.drift is None else f", {self.drift.count:+.1f} % detections"
        return f"{self.lost} points lost{count}"

    def measured(self, data: str, data_sha256: str = "") -> MeasuredAccuracy:
        """Return the figures for a passport, given the evaluation data in words and the checksum of its frames."""
        return MeasuredAccuracy(
            metric=self.metric,
            value=round(self.lost.value, 3),
            low=round(self.lost.low, 3),
            high=round(self.lost.high, 3),
            data=data,
            data_sha256=data_sha256,
            frames=self.frames,
            judged="proven" if self.conclusive else "not proven",
            drift=self.drift,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        figures = {name: round(value, 4) for name, value in self.figures.items()}
        lost = {"value": round(self.lost.value, 3), "low": round(self.lost.low, 3), "high": round(self.lost.high, 3)}
        return {
            "lost": lost,
            "metric": self.metric,
            "frames": self.frames,
            "objects": self.objects,
            "proven": self.conclusive,
        } | figures


class Judge:
    """The results of FP32 on some frames, with which other engines are compared.

    Args:
        engine: The open FP32 engine.
        frames: The frames to compare on.

    Raises:
        ModelError: FP32 finds nothing on the frames, or gives values that are not finite.
    """

    def __init__(self, engine: Engine, frames: FrameSet) -> None:
        self.card = engine.card
        self.frames = frames
        if self.card.task == "detect":
            self._outputs, details = run_detector(engine, frames.pixels, frames.letterboxes)
            mirrored = run_detector(engine, [pixels[:, ::-1] for pixels in frames.pixels])[0]
            self._detect = _DetectionJudge(self.card, frames.letterboxes, self._outputs, details, mirrored)
        else:
            self._outputs = list(run_frames(engine, frames.pixels))

    def compare(self, engine: Engine) -> Agreement:
        """Compare an engine on the same frames.

        Raises:
            ModelError: It gives values that are not finite.
        """
        if self.card.task == "detect":
            return self._detect.compare(*run_detector(engine, self.frames.pixels, self.frames.letterboxes))
        outputs = list(run_frames(engine, self.frames.pixels))
        return _judged(_COMPARE[self.card.task](self._outputs, outputs))

    def fit_scores(self, engine: Engine) -> Recalibration | None:
        """Return the correction of a detector's scores to those of FP32; None if it cannot be fitted."""
        outputs, _ = run_detector(engine, self.frames.pixels)
        theirs = select_all(outputs, self.frames.letterboxes, self.card, LOW_SCORE / 2)
        return fit(select_all(self._outputs, self.frames.letterboxes, self.card, LOW_SCORE), theirs, self.card.confidence)

    def detections(self, engine: Engine, frame: int) -> tuple[Detections, Detections]:
        """Return the detections of FP32 and an engine on one frame, in pixels of the source."""
        outputs, _ = run_detector(engine, [self.frames.pixels[frame]])
        layout = [self.frames.letterboxes[frame]]
        both = (self._outputs[frame], outputs[0])
        first, second = (select_all([one], layout, self.card, self.card.confidence)[0] for one in both)
        return first, second


def run_detector(
    engine: Engine, frames: Sequence[NDArray[np.uint8]], layouts: Sequence[Letterbox] = ()
) -> tuple[list[Outputs], list[Detections]]:
    """Run frames through an open detector, one at a time.

    The details of all candidates would need megabytes of memory for each frame, so that only those of likely detections are kept.

    Args:
        engine: The engine.
        frames: The contents of its slots, uint8 [H, W, 3] each.
        layouts: The positions of the images in the slots; empty: no details are needed.

    Returns:
        The outputs for boxes; and, for a model with details, the detections with at least half the confidence of the model.

    Raises:
        ModelError: An output contains NaN or infinity.
    """
    outputs: list[Outputs] = []
    detailed: list[Detections] = []
    for one in run_frames(engine, frames):
        if layouts and engine.card.detail is not None:
            detailed += select_all([one], [layouts[len(outputs)]], engine.card, engine.card.confidence / 2)
        if engine.card.unclip is not None:
            one = boxes_of_maps(one["probabilities"], engine.input_size, engine.card.unclip)
        outputs.append({name: one[name] for name in _BOX_OUTPUTS if name in one})
    return outputs, detailed


def run_frames(engine: Engine, frames: Sequence[NDArray[np.uint8]]) -> Iterator[Outputs]:
    """Yield the outputs of an open engine for frames, one at a time.

    Args:
        engine: The engine.
        frames: The contents of its slots, uint8 [H, W, 3] each.

    Raises:
        ModelError: An output contains NaN or infinity.
    """
    for pixels in frames:
        loan = engine.lend(1)
        loan.slots[0].pixels[:] = pixels
        loan.slots[0].layout = None
        outputs = engine.collect(engine.submit(loan)).outputs
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                message = f"{engine.card.name} on {engine.name}: the output '{name}' contains values that are not finite"
                raise ModelError(message, "Choose another precision or runtime.")
        yield outputs


class _DetectionJudge:
    def __init__(
        self,
        card: ModelCard,
        layouts: Sequence[Letterbox],
        outputs: Sequence[Outputs],
        details: Sequence[Detections],
        mirrored: Sequence[Outputs],
    ) -> None:
        self._card, self._layouts, self._details = card, layouts, details
        self._shown = select_all(outputs, layouts, card, card.confidence)
        self.objects = sum(map(len, self._shown))
        if self.objects == 0:
            message = f"{card.name}: FP32 finds nothing on the {len(layouts)} frames"
            raise ModelError(message, "Use frames with objects of the model's classes, or lower its confidence.")
        self._weights = sample_weights(len(layouts))
        low = select_all(outputs, layouts, card, LOW_SCORE)
        turned = [_mirror(one, card.input.width) for one in mirrored]
        self._truth = select_all(turned, layouts, card, card.confidence)
        self._own = self._against(self._truth, low)
        self.mirror = bool(self._own[0] >= _MIN_JUDGE) and sum(map(len, self._truth)) * 2 >= self.objects
        if not self.mirror:
            self._truth = self._shown
            self._own = self._against(self._truth, low)

    def _against(self, truth: Sequence[Detections], found: Sequence[Detections]) -> NDArray[np.float64]:
        return mean_precision(match_classes(truth, found), self._weights)

    def compare(self, outputs: Sequence[Outputs], details: Sequence[Detections]) -> Agreement:
        """Compare the outputs of an engine for the same frames, and its detections with details."""
        card = self._card
        low = select_all(outputs, self._layouts, card, LOW_SCORE)
        share = 1 - self._against(self._truth, low) / self._own
        reference = published_map(card)
        lost = interval((TYPICAL_MAP if reference is None else reference) * share)
        strict = interval(100 * self._against(self._shown, low))
        seen = compare_at_threshold(self._shown, low, card.confidence, self._weights, (self._details, details))
        drift = seen.drift
        size = [missed + (1 - one.ious).sum() + np.abs(one.score_changes).sum()
                for missed, one in zip(seen.missed, seen.differences, strict=True)]  # fmt: skip
        judge = "its mirrored self" if self.mirror else "itself"
        scale = f"published mAP {reference:g}" if reference is not None else f"an mAP of {TYPICAL_MAP:g}"
        frames = len(self._layouts)
        return Agreement(
            lost,
            f"points of mAP 0.50:0.95: the share lost against FP32 judged by {judge}, of {scale}",
            frames,
            self.objects,
            frames >= MIN_FRAMES_TO_JUDGE and self.objects >= MIN_OBJECTS_TO_JUDGE,
            {
                "found_again": drift.found,
                "found_again_low": seen.found_low,
                "mean_iou": drift.iou,
                "agreement": strict.value,
                "agreement_low": strict.low,
                "score_change": drift.score,
                "score_difference": drift.score_difference,
                "count_change": drift.count,
                "count_change_low": drift.count_low,
                "count_change_high": drift.count_high,
            }
            | ({} if drift.details is None else {"mean_details": drift.details}),
            self._by_class(seen),
            tuple(int(number) for number in np.argsort(size)[::-1][:6] if size[number] > 0),
            drift,
        )

    def _by_class(self, seen: ThresholdComparison) -> tuple[ClassAgreement, ...]:
        kinds, counts = np.unique(np.concatenate([one.class_ids for one in self._shown]), return_counts=True)
        rows = []
        for kind, count in sorted(zip(kinds.tolist(), counts.tolist(), strict=True), key=lambda one: -one[1]):
            ours = [one[one.class_ids == kind] for one in self._shown]
            pairs = [compare(a, b[b.class_ids == kind], FOUND_IOU) for a, b in zip(ours, seen.again, strict=True)]
            ious = np.concatenate([one.ious for one in pairs])
            changes = np.concatenate([one.score_changes for one in pairs])
            change = sum(int((one.class_ids == kind).sum()) for one in seen.shown) - count
            means = (float(ious.mean()), float(changes.mean())) if ious.size else (0.0, 0.0)
            rows.append(ClassAgreement(self._card.label(kind), count, len(ious), change, *means))
        return tuple(rows)


def published_map(card: ModelCard) -> float | None:
    """Return the mAP on the model's card, in per cent; None if there is none."""
    return next((one.value for one in card.accuracy if "map" in one.metric.lower() and 0 < one.value <= 100), None)


def select_all(outputs: Sequence[Outputs], layouts: Sequence[Letterbox], card: ModelCard, score: float) -> list[Detections]:
    """Return each frame's detections with at least a score, after NMS, in pixels of the source."""
    selector = Selector(score, card.iou, unclip=card.unclip or 0.0)
    return [select(one, [layout], selector)[0] for one, layout in zip(outputs, layouts, strict=True)]


def _mirror(outputs: Outputs, width: int) -> Outputs:
    boxes = outputs["boxes"][..., [2, 1, 0, 3]].copy()
    boxes[..., 0::2] = width - boxes[..., 0::2]
    return {**outputs, "boxes": boxes}


def _judged(comparison: VectorComparison) -> Agreement:
    frames = len(comparison.lost)
    lost = interval(sample_weights(frames) @ comparison.lost / frames)
    conclusive = comparison.conclusive and frames >= MIN_FRAMES_TO_JUDGE
    return Agreement(lost, comparison.metric, frames, frames, conclusive, comparison.figures, (), comparison.worst)
