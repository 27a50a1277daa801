"""From an engine's outputs to descriptions of images: the most probable classes, or the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.description import ClassScore, Description

TOP = 5


@dataclass(frozen=True, slots=True)
class Describer:
    """Makes the description of each image of a batch."""

    card: ModelCard
    top: int = TOP
    """The maximum number of classes."""
    confidence: float = 0.0
    """The minimum probability of a class, 0–1."""

    def __call__(self, outputs: Mapping[str, NDArray[Any]], count: int) -> list[Description]:
        """Describe each image of a batch.

        Args:
            outputs: The outputs; classify: scores float32 [B, C]; embed: embedding float32 [B, D].
            count: The number of images in the batch, at most B: an engine with fixed batch sizes pads.
        """
        if self.card.task == "embed":
            return [Description(embedding=np.array(vector, np.float32)) for vector in outputs["embedding"][:count]]
        return [self._classes(scores) for scores in outputs["scores"][:count]]

    def _classes(self, scores: NDArray[np.float32]) -> Description:
        top = min(self.top, len(scores))
        best = np.argpartition(-scores, top - 1)[:top] if top < len(scores) else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        found = [ClassScore(number, self.card.label(number), float(scores[number])) for number in best.tolist()]
        return Description(classes=tuple(entry for entry in found if entry.score >= self.confidence))
