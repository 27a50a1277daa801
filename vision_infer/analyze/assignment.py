"""The assignment of rows to columns with the largest total gain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign(gain: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs of rows and columns whose gains have the largest sum; each row and each column is in one pair at most.

    The algorithm is that of Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", Computing 38 (1987).

    Args:
        gain: The gains, float64 [N, M], 0 or more. A pair with a gain of 0 is left out.
    """
    from lap import lapjv  # imported on first use: not every run compares boxes

    if not gain.size:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    _, column_of, _ = lapjv(-gain, extend_cost=True)
    rows = np.flatnonzero(column_of >= 0)
    columns = column_of[rows].astype(np.intp)
    good = gain[rows, columns] > 0
    return rows[good], columns[good]
