"""Damaged files of all kinds, as they come from broken disks and cut connections."""

from __future__ import annotations

from tests.fuzz import MOST_BYTES, fuzz

COUNT = 2000


def test_mutated_files_do_no_harm() -> None:
    outcome = fuzz(0, COUNT)
    assert outcome.files == COUNT
    assert (outcome.crashed, outcome.hung, outcome.failed) == ([], [], [])
    assert 0 < outcome.peak_rss_bytes < MOST_BYTES
    assert outcome.frames > COUNT  # most of most files is still read
    assert 0 < outcome.refused < COUNT
