"""From an engine's outputs to descriptions of images: the most probable classes, the embedding, or the class of each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.description import ClassScore, Description
from vision_infer.core.details import ClassMap, Keypoints
from vision_infer.core.geometry import Letterbox

TOP = 5


@dataclass(frozen=True, slots=True)
class Describer:
    """Makes the description of each image of a batch."""

    card: ModelCard
    top: int = TOP
    """The maximum number of classes."""
    confidence: float = 0.0
    """The minimum probability of a class, 0–1."""

    def __call__(self, outputs: Mapping[str, NDArray[Any]], letterboxes: Sequence[Letterbox]) -> list[Description]:
        """Describe each image of a batch.

        Args:
            outputs: The outputs, see :class:`vision_infer.engine.engine.RawResults`.
            letterboxes: The position of each image in its slot; at most B: an engine with fixed batch sizes pads.
        """
        values = outputs[self.card.outputs[0]]
        return [self._describe(one, letterbox) for one, letterbox in zip(values, letterboxes, strict=False)]

    def _describe(self, values: NDArray[Any], letterbox: Letterbox) -> Description:
        if self.card.task == "embed":
            return Description(embedding=np.array(values, np.float32))
        if self.card.task == "segment":
            return Description(segments=ClassMap.from_slot(values, letterbox, self.card.labels))
        if self.card.task == "keypoints":
            offset = np.array([letterbox.x, letterbox.y, 0], np.float32)
            scale = letterbox.source.width / letterbox.content.width, letterbox.source.height / letterbox.content.height
            return Description(keypoints=Keypoints(values - offset, self.card.keypoints).scaled(*scale))
        return self._classes(values)

    def _classes(self, scores: NDArray[np.float32]) -> Description:
        top = min(self.top, len(scores))
        best = np.argpartition(-scores, top - 1)[:top] if top < len(scores) else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        found = [ClassScore(number, self.card.label(number), float(scores[number])) for number in best.tolist()]
        return Description(classes=tuple(entry for entry in found if entry.score >= self.confidence))
