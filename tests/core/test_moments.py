"""The time code without an image: the cells of a moment, and their positions."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vision_infer.core import time_code
from vision_infer.core.time_code import (
    BLACK_GUARDS,
    CELLS,
    COLUMNS,
    MODULUS,
    MOMENT_CELLS,
    ROWS,
    WHITE_GUARDS,
    cells_of,
    column_edges,
    middles,
    moment_ms,
    row_edges,
    since_ms,
)

moments = st.integers(0, MODULUS - 1)


@given(moments)
def test_the_cells_of_a_moment_encode_it(moment: int) -> None:
    cells = cells_of(moment)
    assert len(cells) == ROWS * COLUMNS == len(CELLS)
    assert int("".join(str(cells[place]) for place in MOMENT_CELLS), 2) == moment
    assert [cells[place] for place in (*WHITE_GUARDS, *BLACK_GUARDS)] == [1, 1, 0, 0]
    assert cells_of(moment + MODULUS) == cells


@given(moments, st.integers(1, MODULUS - 1))
def test_different_moments_have_different_cells_and_checksums(moment: int, flipped: int) -> None:
    other = moment ^ flipped
    differ = sum(left != right for left, right in zip(cells_of(moment), cells_of(other), strict=True))
    assert differ >= max(flipped.bit_count(), 2)
    if flipped.bit_count() <= 2:
        assert differ >= 3, "one or two misread cells are detected"


@given(st.integers(160, 4000), st.integers(90, 3000))
def test_every_cell_has_a_position_with_its_middle_inside(width: int, height: int) -> None:
    for edges, size in ((column_edges(width), width), (row_edges(height), height)):
        assert 0 < edges[0] < edges[-1] < size
        for (begin, end), middle in zip(itertools.pairwise(edges), middles(edges), strict=True):
            assert begin < middle.start < middle.stop < end
            assert len(middle) >= (end - begin) // 2


@given(st.integers(0, 1 << 62), st.integers(-3_600_000, 3_600_000))
def test_the_time_since_a_moment_is_correct_across_the_wrap(now_ms: int, ago_ms: int) -> None:
    secondary = max(0, now_ms - ago_ms)
    assert since_ms(moment_ms(secondary * 1_000_000), now_ms * 1_000_000) == now_ms - secondary


def test_python_without_libraries_can_load_the_module() -> None:
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['cells_of'](5)[:18])"
    path = Path(time_code.__file__)
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(cells_of(5)[:18])
