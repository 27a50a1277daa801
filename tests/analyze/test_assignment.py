"""The assignment against SciPy's, on random gains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vision_infer.analyze.assignment import assign

GAINS = st.tuples(st.integers(0, 7), st.integers(0, 7)).flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=st.floats(0, 1, width=16))
)


@given(GAINS)
def test_the_total_gain_is_the_largest_possible(gain: np.ndarray) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rows, columns = assign(gain)
    assert len(set(rows.tolist())) == len(rows) == len(set(columns.tolist())) == len(columns)
    assert (gain[rows, columns] > 0).all()
    assert gain[rows, columns].sum() == pytest.approx(gain[optimize.linear_sum_assignment(gain, maximize=True)].sum())


def test_pairs_without_a_gain_are_left_out() -> None:
    rows, columns = assign(np.array([[0.0, 0.0, 0.6], [0.0, 0.0, 0.0]]))
    assert (rows.tolist(), columns.tolist()) == ([0], [2])
