"""Keypoints: named points of each detection, such as the joints of a person."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vision_infer.core.card import KeypointLayout

VISIBLE_SCORE = 0.3
"""The minimum score of a keypoint that is drawn, and visible in COCO files."""


@dataclass(frozen=True, slots=True)
class Keypoints:
    """The keypoints of N detections."""

    points: NDArray[np.float32]
    """float32 [N, P, 3]: x and y in pixels of the source image, which may be outside of it, and the score, 0–1."""
    layout: KeypointLayout | None = None
    """The names and the skeleton; None if unknown."""

    def __post_init__(self) -> None:
        if self.points.ndim != 3 or self.points.shape[2] != 3:
            raise ValueError(f"keypoints must be [N, P, 3], got {self.points.shape}")

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Keypoints:
        """Return the keypoints of the selected detections."""
        return replace(self, points=self.points[index])

    def scaled(self, x: float, y: float) -> Keypoints:
        """Return the keypoints for an image whose width and height are multiplied by ``x`` and ``y``."""
        return replace(self, points=(self.points * np.array([x, y, 1])).astype(np.float32))

    def visible(self) -> NDArray[np.bool_]:
        """Return whether the score of each keypoint is high enough to show it, bool [N, P]."""
        return self.points[..., 2] >= VISIBLE_SCORE

    def coco(self, index: int) -> dict[str, Any]:
        """Return the fields of a COCO annotation: all keypoints, with visibility 2 or 0, and the number of the visible ones."""
        seen: list[bool] = self.visible()[index].tolist()
        values: list[float] = []
        for (x, y, _), shown in zip(self.points[index].tolist(), seen, strict=True):
            values += [round(x, 2), round(y, 2), 2 if shown else 0]
        return {"keypoints": values, "num_keypoints": sum(seen)}

    def row(self, index: int) -> dict[str, Any]:
        """Return the field of a row: ``keypoints``, a list of x, y and score for each."""
        return {"keypoints": [[round(x, 2), round(y, 2), round(score, 4)] for x, y, score in self.points[index].tolist()]}
