"""The time code: a moment in milliseconds, written into a picture as two rows of black and white cells.

A camera that paints it and a network that reads it measure the whole way between them. A moment is a monotonic time in
milliseconds modulo 2**24 (four and a half hours), so 24 bits. Eight more are their checksum (CRC-8), and the first and last cell
of each row are guards, which show what is white and what is black in this picture.

Every cell is the parity of some bits of the moment, plus a constant: one table, :data:`CELLS`, is the whole code, for whoever
paints and whoever reads. Places are fractions of the picture, so that they stay true when it is stretched to another size.

This module needs nothing but Python itself: a program of another Python can load the file alone.
"""

from __future__ import annotations

import itertools

MODULUS = 1 << 24
"""moments wrap here, milliseconds"""
ROWS = 2
COLUMNS = 18
WIDTH_UNITS = 20
"""the picture's width in cells: one to the left of the code, one to its right"""
HEIGHT_UNITS = 12
"""the picture's height in cells: one above the code, the others below"""
MARGIN_UNITS = 1
"""cells to the left of the code and above it"""
MIN_WIDTH, MIN_HEIGHT = 160, 90
"""the smallest picture that takes the code, pixels"""
GUARD_CONTRAST = 64
"""guards that differ by less are no guards, of 255"""
_BITS = 24
_POLYNOMIAL = 0x07
_CHECKSUM_OF_ZERO = 0b1010_0101
"""not zero, so that a picture of one colour is no moment"""


def _crc8(moment: int) -> int:
    """The remainder of a moment's three bytes, linear over single bits."""
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
"""row by row, for each cell: which bits of the moment count, and what is added to them; odd is white"""
WHITE_GUARDS = (0, ROWS * COLUMNS - 1)
BLACK_GUARDS = (COLUMNS - 1, COLUMNS)
"""places in :data:`CELLS`"""
MOMENT_CELLS = tuple(CELLS.index((1 << bit, 0)) for bit in reversed(range(_BITS)))
"""places in :data:`CELLS` of the moment's bits, the highest first"""


def cells_of(moment: int) -> tuple[int, ...]:
    """The cells of a moment, row by row: 1 is white.

    Args:
        moment: milliseconds; taken modulo :data:`MODULUS`.
    """
    moment %= MODULUS
    return tuple(((moment & mask).bit_count() + added) & 1 for mask, added in CELLS)


def column_edges(width: int) -> tuple[int, ...]:
    """Where the columns of cells begin, and the last one ends, in a picture of this width; pixels."""
    return tuple(round((MARGIN_UNITS + column) * width / WIDTH_UNITS) for column in range(COLUMNS + 1))


def row_edges(height: int) -> tuple[int, ...]:
    """Where the rows of cells begin, and the last one ends, in a picture of this height; pixels."""
    return tuple(round((MARGIN_UNITS + row) * height / HEIGHT_UNITS) for row in range(ROWS + 1))


def middles(edges: tuple[int, ...]) -> tuple[range, ...]:
    """The pixels of each column or row that are read: its middle half, away from what a codec or a resize smears."""
    found: list[range] = []
    for begin, end in itertools.pairwise(edges):
        inset = (end - begin) // 4
        found.append(range(begin + inset, max(begin + inset + 1, end - inset)))
    return tuple(found)


def moment_ms(monotonic_ns: int) -> int:
    """The moment of a monotonic time in nanoseconds."""
    return monotonic_ns // 1_000_000 % MODULUS


def since_ms(moment: int, monotonic_ns: int) -> int:
    """How long ago a moment was, milliseconds, where that is less than two hours; negative where it is still to come."""
    half = MODULUS // 2
    return (moment_ms(monotonic_ns) - moment + half) % MODULUS - half
