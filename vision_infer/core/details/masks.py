"""Instance masks: they are kept as small maps of the model, and become pixels when a sink needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Size

MASK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["size", "counts"],
    "properties": {
        "size": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
        "counts": {"type": "string"},
    },
}
"""The JSON Schema (2020-12) of a mask."""
_MAX_PIXELS = 1 << 28
"""The maximum size of a mask in a row, pixels."""
_MAX_BITS = 40
"""The maximum length of a run length in a row, bits."""


class MaskPatch(NamedTuple):
    """The part of a mask inside its box; all other pixels of the image are outside of the mask."""

    left: int
    """The first column in the image."""
    top: int
    """The first row in the image."""
    inside: NDArray[np.bool_]
    """Whether each pixel is part of the object, bool [h, w]."""


@dataclass(frozen=True, slots=True)
class Masks:
    """The masks of N detections. A pixel is part of an object if its center is inside the box and the logit there is above 0."""

    size: Size
    """The size of the image."""
    boxes: NDArray[np.float32]
    """The boxes inside the image, float32 [N, 4] xyxy, pixels."""
    places: NDArray[np.float64]
    """The rectangle that each map of logits covers, float64 [N, 4] xyxy, pixels."""
    logits: tuple[NDArray[np.float32], ...]
    """N maps, float32 [h, w] each, at the resolution of the model's prototypes."""

    def __post_init__(self) -> None:
        count = len(self.logits)
        if self.boxes.shape != (count, 4) or self.places.shape != (count, 4):
            raise ValueError(f"boxes and places must be [{count}, 4], got {self.boxes.shape} and {self.places.shape}")

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Masks:
        """Return the masks of rows; their boxes are those around the pixels.

        Args:
            rows: One or more fields ``mask`` of rows, of the same image.

        Raises:
            ValueError: A mask is not valid, or the sizes differ.
        """
        (height, width), *others = {tuple(row["size"]) for row in rows}
        if others or not 0 < height * width <= _MAX_PIXELS:
            raise ValueError("masks must have the size of the image")
        places, logits = [], []
        for row in rows:
            lengths = _lengths(row["counts"])
            if min(lengths, default=0) < 0 or sum(lengths) != height * width:
                raise ValueError("the run lengths of a mask must add up to its size")
            inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T
            rows_of, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            top, left, bottom, right = (
                (rows_of[0], columns[0], rows_of[-1] + 1, columns[-1] + 1) if len(columns) else (0, 0, 1, 1)
            )
            places.append([left, top, right, bottom])
            logits.append(np.where(inside[top:bottom, left:right], 1, -1).astype(np.float32))
        boxes = np.array(places, np.float64)
        return cls(Size(width, height), boxes.astype(np.float32), boxes, tuple(logits))

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Masks:
        """Return the masks of the selected detections."""
        chosen = np.arange(len(self))[index].tolist()
        return Masks(self.size, self.boxes[index], self.places[index], tuple(self.logits[at] for at in chosen))

    def scaled(self, x: float, y: float) -> Masks:
        """Return the masks for an image whose width and height are multiplied by ``x`` and ``y``."""
        size = Size(max(1, round(self.size.width * x)), max(1, round(self.size.height * y)))
        factors = np.array([x, y, x, y])
        return Masks(size, (self.boxes * factors).astype(np.float32), self.places * factors, self.logits)

    def patch(self, index: int) -> MaskPatch:
        """Return the pixels of one mask: bilinear interpolation of its logits, cut off at its box."""
        x1, y1, x2, y2 = self.boxes[index].tolist()
        left, top = max(0, ceil(x1 - 0.5)), max(0, ceil(y1 - 0.5))
        right, bottom = min(self.size.width, ceil(x2 - 0.5)), min(self.size.height, ceil(y2 - 0.5))
        logits, place = self.logits[index], self.places[index]
        low, high, part = _neighbors(top, max(top, bottom), place[1], place[3], logits.shape[0])
        rows = logits[low] * (1 - part[:, None]) + logits[high] * part[:, None]
        low, high, part = _neighbors(left, max(left, right), place[0], place[2], logits.shape[1])
        return MaskPatch(left, top, rows[:, low] * (1 - part) + rows[:, high] * part > 0)

    def pixels(self) -> NDArray[np.bool_]:
        """Return all masks at the size of the image, bool [N, H, W]."""
        whole = np.zeros((len(self), self.size.height, self.size.width), np.bool_)
        for index in range(len(self)):
            left, top, inside = self.patch(index)
            whole[index, top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return whole

    def coco(self, index: int) -> dict[str, Any]:
        """Return the fields of a COCO annotation: the mask as compressed run lengths, and its number of pixels."""
        patch = self.patch(index)
        return {"segmentation": encoded(patch, self.size), "area": int(patch.inside.sum())}

    def row(self, index: int) -> dict[str, Any]:
        """Return the field of a row: ``mask``, compressed run lengths in the format of COCO (``pycocotools``)."""
        return {"mask": encoded(self.patch(index), self.size)}


def _neighbors(
    first: int, stop: int, start: float, end: float, count: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return the two elements of a map next to each pixel's center, and the share of the second.

    Args:
        first: The first pixel.
        stop: The pixel after the last one.
        start: The position of the map's first edge, pixels.
        end: The position of its last edge, pixels.
        count: The number of the map's elements.
    """
    at = (np.arange(first, stop) + 0.5 - start) * (count / (end - start)) - 0.5
    at = np.clip(at, 0, count - 1)
    low = at.astype(np.intp)
    return low, np.minimum(low + 1, count - 1), (at - low).astype(np.float32)


def encoded(patch: MaskPatch, size: Size) -> dict[str, Any]:
    """Return a mask in an image of a size as compressed run lengths in the format of COCO."""
    return {"size": [size.height, size.width], "counts": "".join(_characters(_run_lengths(patch, size)))}


def _run_lengths(patch: MaskPatch, size: Size) -> list[int]:
    """Return the lengths of the runs outside and inside of the mask by turns, column by column, the first one outside."""
    height, width = patch.inside.shape
    columns = np.zeros((width, height + 2), np.bool_)  # a pixel outside of the mask above and below each column
    columns[:, 1:-1] = patch.inside.T
    flat = columns.ravel()
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), height + 2)
    bounds = (patch.left + column) * size.height + patch.top + row
    kept = np.ones(len(bounds), np.bool_)
    joined = bounds[1:] == bounds[:-1]  # a run that reaches the bottom of the image goes on at the top of the next column
    kept[1:] &= ~joined
    kept[:-1] &= ~joined
    lengths: list[int] = np.diff(bounds[kept], prepend=0, append=size.width * size.height).tolist()
    return lengths if lengths[-1] or len(lengths) == 1 else lengths[:-1]


def _characters(lengths: list[int]) -> Iterator[str]:
    """Yield the characters of run lengths: from the third on the difference to the last but one, 5 bits each, the lowest first.

    Bit 5 is set unless it is the last character of a number, and 48 is added, so that all are printable.
    """
    for at, length in enumerate(lengths):
        number = length - lengths[at - 2] if at > 2 else length
        while True:
            bits, number = number & 31, number >> 5
            last = number == (-1 if bits & 16 else 0)
            yield chr(48 + bits + (0 if last else 32))
            if last:
                break


def _lengths(characters: str) -> list[int]:
    """Return the run lengths of characters, see :func:`_characters`."""
    lengths: list[int] = []
    number = bits = 0
    for character in characters:
        code = ord(character) - 48
        number |= (code & 31) << bits
        bits += 5
        if bits > _MAX_BITS:
            raise ValueError("a run length of a mask is too long")
        if not code & 32:
            number -= (1 << bits) if code & 16 else 0
            lengths.append(number + lengths[-2] if len(lengths) > 2 else number)
            number = bits = 0
    return lengths
