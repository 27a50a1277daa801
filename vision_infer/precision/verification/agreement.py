"""How far a cheaper engine is from FP32 on frames that nobody has annotated.

Nobody knows what is really there, so that FP32 has to tell it. Its own boxes on the same frame would be too strict a truth:
FP32 would be without fault, and each pixel by which a box moves would count as a loss, though FP32's boxes are themselves
several pixels off. The judge is therefore FP32's confident boxes on the *mirrored* frame, mirrored back: a truth about as far
from FP32's boxes as annotations are. Against it FP32 has an average precision of its own, the cheaper engine has another, and
what it loses of it, as a share, is what it loses of the average precision against people's annotations
(docs/explanation/precision.md has the figures). In points: that share of the network's published mAP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from vision_infer.precision.verification.drift import FOUND_IOU, Interval, Seen, interval, sample_weights, see
from vision_infer.precision.verification.vectors import Outputs, VectorComparison, compare_embeddings, compare_scores

FRAMES_NEEDED = 100
OBJECTS_NEEDED = 100
"""objects of FP32's; with fewer of either nothing is proven"""
LOW_SCORE = 0.05
"""least score of the detections that average precision looks at"""
TYPICAL_MAP = 40.0
"""of a network whose card names none"""
_MIN_JUDGE = 0.3
"""average precision that FP32 has against its mirrored self; below, the mirror is no judge: text reads differently there"""


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """One class, FP32 against the cheaper engine."""

    label: str
    objects: int
    """FP32's confident detections"""
    found: int
    """of those, found again"""
    count_change: int
    """confident detections of the cheaper engine less FP32's"""
    mean_iou: float
    """of what was found again; 0 where nothing was"""
    score_change: float
    """mean, of what was found again"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a cheaper engine loses against FP32."""

    lost: Interval
    """points; negative: better than FP32"""
    metric: str
    """what a point is, in words"""
    frames: int
    objects: int
    proven: bool
    """whether frames and objects were enough to tell"""
    figures: Mapping[str, float]
    """by name, for people and tables"""
    classes: tuple[ClassAgreement, ...] = ()
    worst: tuple[int, ...] = ()
    """numbers of the frames that differ most, the worst first"""
    drift: MeasuredDrift | None = None
    """of a detector: what changes at the model's own score threshold"""

    def shortfall(self, budget: float) -> str:
        """Why it is not good enough, whether it is proven or not; empty if it is.

        Args:
            budget: points that may be lost.
        """
        lost = self.lost
        return why_short(lost.value, lost.low, lost.high, self.frames, self.drift, budget)

    def told(self) -> str:
        """What is lost, in a few words."""
        count = "" if self.drift is None else f", {self.drift.count:+.1f} % detections"
        return f"{self.lost} points lost{count}"

    def measured(self, data: str, data_sha256: str = "") -> MeasuredAccuracy:
        """What a passport keeps of it.

        Args:
            data: what it was judged on, in words.
            data_sha256: checksum of those frames.
        """
        return MeasuredAccuracy(
            metric=self.metric,
            value=round(self.lost.value, 3),
            low=round(self.lost.low, 3),
            high=round(self.lost.high, 3),
            data=data,
            data_sha256=data_sha256,
            frames=self.frames,
            judged="proven" if self.proven else "not proven",
            drift=self.drift,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        figures = {name: round(value, 4) for name, value in self.figures.items()}
        lost = {"value": round(self.lost.value, 3), "low": round(self.lost.low, 3), "high": round(self.lost.high, 3)}
        return {
            "lost": lost,
            "metric": self.metric,
            "frames": self.frames,
            "objects": self.objects,
            "proven": self.proven,
        } | figures


class Judge:
    """FP32 on some frames, with which other engines are compared.

    Args:
        engine: FP32, open.
        frames: what it is to be compared on.

    Raises:
        ModelError: FP32 itself finds nothing on the frames, or gives values that are not finite.
    """

    def __init__(self, engine: Engine, frames: FrameSet) -> None:
        self.card = engine.card
        self.frames = frames
        self._outputs = run_frames(engine, frames.pixels)
        if self.card.task == "detect":
            mirrored = run_frames(engine, [pixels[:, ::-1] for pixels in frames.pixels])
            self._detect = _DetectionJudge(self.card, frames.letterboxes, self._outputs, mirrored)

    def compare(self, engine: Engine) -> Agreement:
        """Run another engine on the same frames.

        Raises:
            ModelError: it gives values that are not finite.
        """
        outputs = run_frames(engine, self.frames.pixels)
        if self.card.task == "detect":
            return self._detect.compare(outputs)
        if self.card.task == "classify":
            return _judged(compare_scores(self._outputs, outputs))
        return _judged(compare_embeddings(self._outputs, outputs))

    def fit_scores(self, engine: Engine) -> Recalibration | None:
        """The correction that brings a detector's scores back to where FP32's are; None where nothing can be fitted."""
        outputs = run_frames(engine, self.frames.pixels)
        theirs = select_all(outputs, self.frames.letterboxes, self.card, LOW_SCORE / 2)
        return fit(select_all(self._outputs, self.frames.letterboxes, self.card, LOW_SCORE), theirs, self.card.confidence)

    def detections(self, engine: Engine, frame: int) -> tuple[Detections, Detections]:
        """What FP32 and another engine show on one frame, in its source's pixels."""
        outputs = run_frames(engine, [self.frames.pixels[frame]])
        layout = [self.frames.letterboxes[frame]]
        both = (self._outputs[frame], outputs[0])
        first, second = (select_all([one], layout, self.card, self.card.confidence)[0] for one in both)
        return first, second


def run_frames(engine: Engine, frames: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
    """Run frames through an engine, one at a time.

    Args:
        engine: open.
        frames: uint8 [H, W, 3] each, as they lie in slots.

    Raises:
        ModelError: an output holds NaN or infinity.
    """
    found: list[Outputs] = []
    for pixels in frames:
        loan = engine.lend(1)
        loan.slots[0].pixels[:] = pixels
        loan.slots[0].layout = None
        outputs = engine.collect(engine.submit(loan)).outputs
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                message = f"{engine.card.name} on {engine.name}: its output '{name}' holds values that are not finite"
                raise ModelError(message, "such an engine is of no use: choose another precision or runtime")
        found.append(outputs)
    return found


class _DetectionJudge:
    def __init__(
        self, card: ModelCard, layouts: Sequence[Letterbox], outputs: Sequence[Outputs], mirrored: Sequence[Outputs]
    ) -> None:
        self._card, self._layouts = card, layouts
        self._shown = select_all(outputs, layouts, card, card.confidence)
        self.objects = sum(map(len, self._shown))
        if self.objects == 0:
            message = f"{card.name}: FP32 finds nothing on the {len(layouts)} frames, so that nothing can be compared"
            raise ModelError(message, "give frames that show what the network finds, or lower the confidence on its card")
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

    def compare(self, outputs: Sequence[Outputs]) -> Agreement:
        """Another engine's outputs for the same frames."""
        card = self._card
        low = select_all(outputs, self._layouts, card, LOW_SCORE)
        share = 1 - self._against(self._truth, low) / self._own
        reference = published_map(card)
        lost = interval((TYPICAL_MAP if reference is None else reference) * share)
        strict = interval(100 * self._against(self._shown, low))
        seen = see(self._shown, low, card.confidence, self._weights)
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
            frames >= FRAMES_NEEDED and self.objects >= OBJECTS_NEEDED,
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
            },
            self._by_class(seen),
            tuple(int(number) for number in np.argsort(size)[::-1][:6] if size[number] > 0),
            drift,
        )

    def _by_class(self, seen: Seen) -> tuple[ClassAgreement, ...]:
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
    """The network's mAP as its card tells it, per cent; None where it tells none."""
    return next((one.value for one in card.accuracy if "map" in one.metric.lower() and 0 < one.value <= 100), None)


def select_all(outputs: Sequence[Outputs], layouts: Sequence[Letterbox], card: ModelCard, score: float) -> list[Detections]:
    """What each frame's outputs show from a score on, after NMS, in the source's pixels."""
    selector = Selector(score, card.iou)
    return [
        select((one["boxes"], one["scores"], one["class_ids"]), [layout], selector)[0]
        for one, layout in zip(outputs, layouts, strict=True)
    ]


def _mirror(outputs: Outputs, width: int) -> Outputs:
    boxes = outputs["boxes"][..., [2, 1, 0, 3]].copy()
    boxes[..., 0::2] = width - boxes[..., 0::2]
    return {**outputs, "boxes": boxes}


def _judged(comparison: VectorComparison) -> Agreement:
    frames = len(comparison.lost)
    lost = interval(sample_weights(frames) @ comparison.lost / frames)
    proven = comparison.telling and frames >= FRAMES_NEEDED
    return Agreement(lost, comparison.metric, frames, frames, proven, comparison.figures, (), comparison.worst)
