"""The time code: a time in milliseconds, drawn into an image as two rows of black and white cells.

A camera that draws it and a model that reads it measure the whole latency between them. A moment is a monotonic time in
milliseconds modulo 2**24 (four and a half hours), so 24 bits. Eight more are their checksum (CRC-8), and the first and last cell
of each row are guards, which show the levels of white and black in this image.

Every cell is the parity of some bits of the moment, plus a constant: one table, :data:`CELLS`, is the whole code, for
drawing and for reading. Positions are fractions of the image, so that they remain valid when it is stretched to another size.

This module needs only Python itself: a program of another Python version can load the file alone.
"""

from __future__ import annotations

import itertools

MODULUS = 1 << 24
"""The value at which moments wrap, milliseconds."""
ROWS = 2
COLUMNS = 18
WIDTH_UNITS = 20
"""The width of the image in cells: one to the left of the code, one to its right."""
HEIGHT_UNITS = 12
"""The height of the image in cells: one above the code, the others below."""
MARGIN_UNITS = 1
"""The number of cells to the left of the code and above it."""
MIN_WIDTH, MIN_HEIGHT = 160, 90
"""The size of the smallest image for the code, pixels."""
GUARD_CONTRAST = 64
"""The minimum difference between white and black guards, of 255."""
_BITS = 24
_POLYNOMIAL = 0x07
_CHECKSUM_OF_ZERO = 0b1010_0101
"""Not zero, so that an image of one color is not a moment."""


def _crc8(moment: int) -> int:
    """Return the remainder of a moment's three bytes, linear over single bits."""
    remainder = 0
    for byte in moment.to_bytes(3, "big"):
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder << 1 ^ _POLYNOMIAL if remainder & 0x80 else remainder << 1) & 0xFF
    return remainder


def _cells() -> tuple[tuple[int, int], ...]:
    data = [(1 << bit, 0) for bit in reversed(range(_BITS))]
    for bit in reversed(range(8)):
        mask = sum(1 << source for source in range(_BITS) if _crc8(1 << source) >> bit & 1)
        data.append((mask, _CHECKSUM_OF_ZERO >> bit & 1))
    white, black = (0, 1), (0, 0)
    return (white, *data[:16], black, black, *data[16:], white)


CELLS = _cells()
"""The cells, row by row: the mask of the bits of the moment, and the constant added to them; odd is white."""
WHITE_GUARDS = (0, ROWS * COLUMNS - 1)
BLACK_GUARDS = (COLUMNS - 1, COLUMNS)
"""Indices in :data:`CELLS`."""
MOMENT_CELLS = tuple(CELLS.index((1 << bit, 0)) for bit in reversed(range(_BITS)))
"""The indices in :data:`CELLS` of the bits of the moment, the highest first."""


def cells_of(moment: int) -> tuple[int, ...]:
    """Return the cells of a moment, row by row: 1 is white.

    Args:
        moment: The time, milliseconds; taken modulo :data:`MODULUS`.
    """
    moment %= MODULUS
    return tuple(((moment & mask).bit_count() + added) & 1 for mask, added in CELLS)


def column_edges(width: int) -> tuple[int, ...]:
    """Return where the columns of cells begin, and the last one ends, in an image of this width; pixels."""
    return tuple(round((MARGIN_UNITS + column) * width / WIDTH_UNITS) for column in range(COLUMNS + 1))


def row_edges(height: int) -> tuple[int, ...]:
    """Return where the rows of cells begin, and the last one ends, in an image of this height; pixels."""
    return tuple(round((MARGIN_UNITS + row) * height / HEIGHT_UNITS) for row in range(ROWS + 1))


def middles(edges: tuple[int, ...]) -> tuple[range, ...]:
    """Return the pixels of each column or row that are read: its middle half, away from edges blurred by a codec or resize."""
    found: list[range] = []
    for begin, end in itertools.pairwise(edges):
        inset = (end - begin) // 4
        found.append(range(begin + inset, max(begin + inset + 1, end - inset)))
    return tuple(found)


def moment_ms(monotonic_ns: int) -> int:
    """Return the moment of a monotonic time in nanoseconds."""
    return monotonic_ns // 1_000_000 % MODULUS


def since_ms(moment: int, monotonic_ns: int) -> int:
    """Return the time since a moment, milliseconds, if it is less than two hours; negative if the moment is in the future."""
    half = MODULUS // 2
    return (moment_ms(monotonic_ns) - moment + half) % MODULUS - half
