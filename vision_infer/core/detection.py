"""One detected object."""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.core.description import Description


@dataclass(frozen=True, slots=True)
class Detection:
    """One of the :class:`Detections` of a frame, as plain values."""

    label: str
    """The label of the class; its number if the model has no labels."""
    score: float
    """The score, 0–1."""
    box: tuple[float, float, float, float]
    """The edges x1, y1, x2, y2, pixels of the source image."""
    class_id: int
    track_id: int | None = None
    """The number of the track, from 1; None without tracking, or without a track."""
    description: Description | None = None
    """The output of a secondary model; None if there is none."""

    def __str__(self) -> str:
        track = "" if self.track_id is None else f" #{self.track_id}"
        return f"{self.label}{track} {self.score:.2f} [{', '.join(f'{edge:.0f}' for edge in self.box)}]"
