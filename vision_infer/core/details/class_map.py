"""The class of each pixel of an image, from a model for semantic segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.details.masks import MaskPatch, encoded
from vision_infer.core.geometry import Letterbox, Size

BACKGROUND = ("background", "__background__", "_background_")
"""The labels of pixels that belong to no class; they are not drawn."""


@dataclass(frozen=True, slots=True)
class ClassMap:
    """The class of each pixel, at the resolution of the model."""

    classes: NDArray[np.uint8]
    """The class numbers, uint8 [h, w]; the map covers the whole image."""
    label_names: tuple[str, ...] | None = None
    """The labels by class number; None: the number is the label."""

    def __post_init__(self) -> None:
        if self.classes.ndim != 2 or not self.classes.size:
            raise ValueError(f"the classes must be [h, w], got {self.classes.shape}")

    @classmethod
    def from_slot(cls, classes: NDArray[np.uint8], letterbox: Letterbox, label_names: tuple[str, ...] | None) -> ClassMap:
        """Return the map of an image from that of its slot, uint8 [h, w]: what is around the image is cut off."""
        content, whole = letterbox.content, letterbox.input
        rows = _elements(letterbox.y / whole.height, content.height / whole.height, classes.shape[0])
        columns = _elements(letterbox.x / whole.width, content.width / whole.width, classes.shape[1])
        return cls(classes[rows][:, columns], label_names)

    @property
    def class_ids(self) -> list[int]:
        """The numbers of the classes in the image, that of the most pixels first."""
        counts = np.bincount(self.classes.ravel())
        order: list[int] = np.argsort(-counts, kind="stable")[: int(np.count_nonzero(counts))].tolist()
        return order

    @property
    def shown_ids(self) -> list[int]:
        """The same without the background."""
        return [number for number in self.class_ids if self.label_of(number).lower() not in BACKGROUND]

    def label_of(self, class_id: int) -> str:
        """Return the label of a class; its number if it has none."""
        names = self.label_names
        return names[class_id] if names is not None and class_id < len(names) else str(class_id)

    def share(self, class_id: int) -> float:
        """Return the share of a class in the image, 0–1."""
        return float((self.classes == class_id).mean())

    def pixels(self, size: Size) -> NDArray[np.uint8]:
        """Return the class of each pixel of the image, uint8 [H, W], by the nearest element of the map."""
        height, width = self.classes.shape
        return self.classes[_elements(0, 1, height, size.height)][:, _elements(0, 1, width, size.width)]

    def rows(self) -> list[dict[str, Any]]:
        """Return the field ``segments`` of a row: the label, share and mask of each class, the largest first."""
        height, width = self.classes.shape
        return [
            {
                "class_id": number,
                "label": self.label_of(number),
                "share": round(self.share(number), 4),
                "mask": encoded(MaskPatch(0, 0, self.classes == number), Size(width, height)),
            }
            for number in self.class_ids
        ]


def _elements(start: float, share: float, count: int, parts: int | None = None) -> NDArray[np.intp]:
    """Return the elements of a map at the centers of equal parts of a range.

    Args:
        start: The start of the range, as a share of the map.
        share: The length of the range, as a share of the map.
        count: The number of the map's elements.
        parts: The number of the parts; None: as many as the map has elements in the range.
    """
    parts = max(1, round(share * count)) if parts is None else parts
    at = (start + (np.arange(parts) + 0.5) * (share / parts)) * count
    return np.asarray(np.clip(at, 0, count - 1), np.intp)
