"""What was found in one frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.description import Description

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes, scores and classes of one frame, best score first unless tracked."""

    boxes: NDArray[np.float32]
    """float32 [N, 4], xyxy, pixels of the source picture"""
    scores: NDArray[np.float32]
    """float32 [N], 0–1"""
    class_ids: NDArray[np.int32]
    """int32 [N]"""
    label_names: tuple[str, ...] | None = None
    """label by class number; None: the number is the label"""
    track_ids: NDArray[np.int32] | None = None
    """int32 [N], numbers of tracks from 1, 0 for a detection without one; None when nothing was tracked"""
    descriptions: tuple[Description | None, ...] | None = None
    """N: what a second network says of each detection, None where it says nothing; None when there is no second network"""

    def __post_init__(self) -> None:
        count = self.scores.shape[0] if self.scores.ndim == 1 else -1
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must be [N, 4] with N scores, got {self.boxes.shape} with scores {self.scores.shape}")
        if self.class_ids.shape != (count,):
            raise ValueError(f"class_ids must be [{count}], got {self.class_ids.shape}")
        if self.track_ids is not None and self.track_ids.shape != (count,):
            raise ValueError(f"track_ids must be [{count}], got {self.track_ids.shape}")
        if self.descriptions is not None and len(self.descriptions) != count:
            raise ValueError(f"descriptions must be {count}, got {len(self.descriptions)}")

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Detections:
        """The chosen detections, in the order of ``index``."""
        return Detections(
            self.boxes[index],
            self.scores[index],
            self.class_ids[index],
            self.label_names,
            None if self.track_ids is None else self.track_ids[index],
            None if self.descriptions is None else tuple(np.array((*self.descriptions, None), object)[:-1][index]),
        )

    @property
    def labels(self) -> list[str]:
        """The label of each detection."""
        return [self.label_of(class_id) for class_id in self.class_ids.tolist()]

    def label_of(self, class_id: int) -> str:
        """The label of a class; its number where there is no name for it."""
        names = self.label_names
        return names[class_id] if names is not None and 0 <= class_id < len(names) else str(class_id)

    def to_supervision(self) -> supervision.Detections:
        """The same as ``supervision.Detections``: labels are under ``data["class_name"]``.

        What a second network says is under ``data["secondary_label"]`` (empty where it says nothing) and ``data["embedding"]``
        (float32 [N, D], NaN where there is none).
        """
        import supervision

        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.class_ids.astype(np.int_),
            tracker_id=None if self.track_ids is None else self.track_ids.astype(np.int_),
            data={"class_name": np.array(self.labels, dtype=np.str_), **self._told()},
        )

    def _told(self) -> dict[str, NDArray[np.str_] | NDArray[np.float32]]:
        """What a second network says of each detection, by the kind of it."""
        said: dict[str, NDArray[np.str_] | NDArray[np.float32]] = {}
        told = [Description() if one is None else one for one in self.descriptions or ()]
        if any(one.best is not None for one in told):
            said["secondary_label"] = np.array(["" if one.best is None else one.best.label for one in told], dtype=np.str_)
        sizes = {len(one.embedding) for one in told if one.embedding is not None}
        if sizes:
            nothing = np.full(max(sizes), np.nan, np.float32)
            said["embedding"] = np.stack([nothing if one.embedding is None else one.embedding for one in told])
        return said

    @classmethod
    def empty(cls, label_names: tuple[str, ...] | None = None) -> Detections:
        """No detection at all."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), label_names)
