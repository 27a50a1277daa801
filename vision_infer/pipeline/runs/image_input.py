"""Images that a caller of the Python interface passes, and drawing on them."""

from __future__ import annotations

from os import PathLike
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.detections import Detections, LabelText
from vision_infer.core.image import Image
from vision_infer.stream.image import ArrayImage


class PilImage(Protocol):
    """The part of a PIL image that is used here."""

    def convert(self, mode: str) -> Any:
        """Return the image in another mode."""
        ...


ImageInput: TypeAlias = NDArray[np.uint8] | str | PathLike[str] | PilImage
"""An array uint8 [H, W, 3] RGB, a path, or a PIL image."""


def image_of(image: ImageInput) -> Image:
    """Return the image of a caller.

    Raises:
        StreamError: The file cannot be read as an image.
        ValueError: The value is not an image, or an array is not uint8 [H, W, 3].
    """
    if isinstance(image, (str, PathLike)):
        from vision_infer.stream.files.images import read_image

        return ArrayImage(read_image(str(image)))
    if isinstance(image, np.ndarray):
        return ArrayImage(image)
    if hasattr(image, "convert"):  # a PIL image, without importing PIL
        return ArrayImage(np.asarray(image.convert("RGB"), np.uint8))
    raise ValueError(f"an image is a uint8 [H, W, 3] RGB array, a path or a PIL image, got {type(image).__name__}")


def draw(image: ImageInput, detections: Detections, labels: LabelText = "scores") -> NDArray[np.uint8]:
    """Draw detections on a copy of an image.

    Args:
        image: An array uint8 [H, W, 3] RGB, a path or a PIL image.
        detections: The detections, with boxes in pixels of this image.
        labels: The text at the boxes: labels with ``scores``, ``names`` only, or ``none``.

    Returns:
        The image with boxes and labels, uint8 [H, W, 3] RGB.

    Raises:
        StreamError: The file cannot be read as an image.
        ValueError: The value is not an image, or an array is not uint8 [H, W, 3].
    """
    from vision_infer.analyze.draw import Drawer

    return Drawer(labels)(image_of(image).to_rgb().copy(), detections)
