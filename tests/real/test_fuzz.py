"""Damaged files of all kinds, as from broken disks and interrupted connections."""

from __future__ import annotations

import pytest

from tests.support.fuzz import MAX_BYTES, fuzz

COUNT = 1000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_mutated_files_cause_no_crash(seed: int) -> None:
    outcome = fuzz(seed, COUNT)
    assert outcome.files == COUNT
    assert (outcome.crashed, outcome.hung, outcome.failed) == ([], [], [])
    assert 0 < outcome.peak_rss_bytes < MAX_BYTES
    assert outcome.frames > COUNT  # most parts of most files are still read
    assert 0 < outcome.refused < COUNT
