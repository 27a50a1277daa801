"""Draws and reads time codes in pixel arrays; :mod:`vision_infer.core.time_code` defines them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.time_code import (
    BLACK_GUARDS,
    COLUMNS,
    GUARD_CONTRAST,
    MIN_HEIGHT,
    MIN_WIDTH,
    MOMENT_CELLS,
    ROWS,
    WHITE_GUARDS,
    cells_of,
    column_edges,
    middles,
    row_edges,
)


def draw(image: NDArray[np.uint8], milliseconds: int) -> None:
    """Draw a time over the top of an image.

    Args:
        image: uint8 [H, W, 3] RGB or [H, W] gray, at least 160×90; it is changed.
        milliseconds: The monotonic time; taken modulo 2**24.

    Raises:
        ValueError: The image is too small.
    """
    height, width = image.shape[:2]
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        raise ValueError(f"an image must be at least {MIN_WIDTH}x{MIN_HEIGHT} for a time code, got {width}x{height}")
    cells = np.array(cells_of(milliseconds), np.uint8).reshape(ROWS, COLUMNS) * np.uint8(255)
    columns, rows = column_edges(width), row_edges(height)
    for row in range(ROWS):
        line = np.repeat(cells[row], np.diff(columns))
        place = image[rows[row] : rows[row + 1], columns[0] : columns[-1]]
        place[:] = line if image.ndim == 2 else line[:, None]


def read(image: NDArray[np.uint8]) -> int | None:
    """Read the time in an image, which may have been compressed and scaled. Of a letterboxed image, pass the content.

    Args:
        image: uint8 [H, W, 3] RGB or [H, W] gray.

    Returns:
        The time in milliseconds, 0 to 2**24 - 1; None if guards, cells or checksum are wrong.
    """
    height, width = image.shape[:2]
    levels = np.empty((ROWS, COLUMNS), np.float64)
    columns = middles(column_edges(width))
    for row, lines in enumerate(middles(row_edges(height))):
        for column, pixels in enumerate(columns):
            levels[row, column] = image[lines.start : lines.stop, pixels.start : pixels.stop].mean()
    flat = levels.ravel()
    white, black = flat[list(WHITE_GUARDS)].min(), flat[list(BLACK_GUARDS)].max()
    if white - black < GUARD_CONTRAST:
        return None
    # A cell between the outer quarters of the contrast is neither black nor white.
    if (np.abs(4 * flat - 2 * (white + black)) < white - black).any():
        return None
    cells = (2 * flat > white + black).astype(int)
    moment = sum(int(cells[cell]) << bit for cell, bit in zip(MOMENT_CELLS, reversed(range(len(MOMENT_CELLS))), strict=True))
    return moment if tuple(cells) == cells_of(moment) else None
