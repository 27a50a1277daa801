"""Damaged video: everything that can be decoded is delivered, and losses are reported with their times."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stream.test_stream_range import read
from tests.support import media, odd_files
from vision_infer.stream.files.gap_watch import GapWatch
from vision_infer.stream.find import open_source
from vision_infer.stream.source import GAP_TIMES_KEPT, WARNINGS_KEPT, ReadReport, SourceSpec

FAST_START = replace(media.H264, frames=50, format_options=(("movflags", "faststart"),))
"""A clip with its index at the beginning, so that a part of it can be read."""
IN_MKV = replace(media.H264, frames=50, suffix=".mkv")
IN_FLV = replace(media.H264, frames=50, suffix=".flv")
IN_AVI = replace(media.H264, frames=50, suffix=".avi")
IN_TS = replace(media.H264, frames=50, suffix=".ts")
IN_MPG = media.Clip(frames=50, suffix=".mpg", codec="mpeg2video", options=(("g", "12"),))
"""MPEG-2 conceals missing parts, and marks the frame."""


@pytest.mark.parametrize("part", [0.5, 0.77, 0.9])
@pytest.mark.parametrize("recipe", [FAST_START, IN_MKV, IN_FLV, IN_AVI], ids=["mp4", "mkv", "flv", "avi"])
def test_a_file_truncated_in_the_middle_of_a_frame(recipe: media.Clip, part: float) -> None:
    whole = [float(one.time) for one in media.decoded(media.clip(recipe))]
    path = odd_files.truncated(recipe, part)
    _, frames, report = read(path)
    seen = [frame.pts_s for frame in frames]
    assert seen == whole[: len(seen)]
    assert seen == [float(one.time) for one in media.decoded_as_far_as_possible(path)]
    (warning,) = report.warnings
    assert f"{len(seen) / 25 + whole[0]:.2f} s" in warning
    assert not any(frame.damaged for frame in frames[:-1])


@pytest.mark.parametrize("part", [0.3, 0.6])
@pytest.mark.parametrize("recipe", [FAST_START, IN_MKV, IN_FLV, IN_TS, IN_MPG], ids=["mp4", "mkv", "flv", "ts", "mpg"])
def test_a_hole_is_a_gap_from_frame_to_frame(recipe: media.Clip, part: float) -> None:
    whole = [float(one.time) for one in media.decoded(media.clip(recipe))]
    _, frames, report = read(odd_files.overwritten(recipe, part, 700))
    seen = [frame.pts_s for frame in frames]
    missing = [time for time in whole if time not in seen]
    assert missing
    assert seen[-1] == whole[-1], "decoding goes on behind the hole"
    assert report.gaps == len(report.gap_times) == 1
    ((begin, end),) = report.gap_times
    assert begin is not None
    assert end is not None
    assert all(begin - 1e-6 <= time < end for time in missing)
    assert begin == pytest.approx(missing[0], abs=1e-6)
    assert end in seen
    assert report.warnings == []


@pytest.mark.parametrize("recipe", [FAST_START, IN_MKV, IN_MPG], ids=["mp4", "mkv", "mpg"])
def test_frames_that_the_decoder_marks_are_damaged(recipe: media.Clip) -> None:
    path = odd_files.overwritten(recipe, 0.3, 700)
    _, frames, report = read(path)
    marked = [float(one.time) for one in media.decoded_as_far_as_possible(path) if one.is_corrupt]
    assert [frame.pts_s for frame in frames if frame.damaged] == marked
    assert report.damaged == len(marked) > 0
    assert not any(frame.damaged for frame in read(media.clip(recipe))[1])


def test_damage_before_the_start_is_not_counted() -> None:
    path = odd_files.overwritten(FAST_START, 0.3, 700)
    _, frames, report = read(path, start_s=1.0)
    assert len(frames) == 25
    assert report == ReadReport()


def test_gaps_with_a_threaded_decoder() -> None:
    """Frame threads reach the damage before they output the frames around it."""
    path = odd_files.overwritten(FAST_START, 0.3, 700)
    alone = read(path)
    with open_source(SourceSpec("clip", "video", (str(path),)), 4) as source:
        frames = list(source.frames())
    assert [frame.pts_s for frame in frames] == [frame.pts_s for frame in alone[1]]
    assert source.report.gaps >= 1


def watch(interval: float | None = 0.04, since: float | None = None) -> tuple[GapWatch, ReadReport]:
    report = ReadReport()
    return GapWatch(report, interval, 0.0, since), report


def test_a_lost_packet_waits_for_the_frames_shown_before_it() -> None:
    """With B-frames, packets and frames have a different order."""
    gaps, report = watch()
    gaps.frame(0.0, 0.04, 0)
    gaps.lost(0.16)
    for time in (0.04, 0.08, 0.12):
        gaps.frame(time, time + 0.04, 1)
    assert report.gaps == 0
    gaps.frame(0.20, 0.24, 1)
    assert report.gap_times == [(0.16, 0.2)]


def test_lost_packets_in_a_row_are_one_gap() -> None:
    gaps, report = watch()
    gaps.frame(0.0, 0.04, 0)
    for time in (0.04, 0.12, 0.08):
        gaps.lost(time)
    gaps.frame(0.16, 0.2, 3)
    gaps.frame(0.20, 0.24, 3)
    assert report.gap_times == [(0.04, 0.16)]


def test_a_jump_is_a_gap_only_with_a_sign_of_damage() -> None:
    gaps, report = watch()
    gaps.frame(0.0, 0.04, 0)
    gaps.frame(1.0, 1.04, 0)
    assert report.gaps == 0
    gaps.frame(2.0, 2.04, 1)
    assert report.gap_times == [(1.04, 2.0)]
    gaps.frame(3.0, 3.04, 1)
    assert report.gaps == 1, "one sign explains one jump"


def test_a_sign_of_damage_long_ago_explains_nothing() -> None:
    gaps, report = watch()
    for number in range(100):
        gaps.frame(number / 25, (number + 1) / 25, 1 if number > 2 else 0)
    gaps.frame(8.0, 8.04, 1)
    assert report.gaps == 0


def test_packets_lost_at_the_end_and_without_timestamps() -> None:
    gaps, report = watch()
    gaps.frame(0.0, 0.04, 0)
    gaps.lost(0.04)
    gaps.finish()
    gaps.finish()
    assert report.gap_times == [(0.04, 0.08)]
    gaps, report = watch(None)
    gaps.lost(None)
    gaps.frame(None, None, 1)
    assert report.gap_times == [(0.0, None)]


@given(st.lists(st.tuples(st.sampled_from(["frame", "lost"]), st.none() | st.integers(0, 50)), max_size=60))
def test_gaps_are_bounded_and_ordered_for_any_input(events: list[tuple[str, int | None]]) -> None:
    gaps, report = watch()
    for number, (what, place) in enumerate(events):
        time = None if place is None else place / 25
        if what == "lost":
            gaps.lost(time)
        else:
            gaps.frame(time, None if time is None else time + 0.04, number)
    gaps.finish()
    assert report.gaps <= len(events)
    assert all(begin is None or end is None or begin <= end for begin, end in report.gap_times)


def test_the_report_is_bounded() -> None:
    report = ReadReport()
    for number in range(1000):
        report.gap(number, number + 1)
        report.warn(f"{number}")
        report.warn(f"{number}")
    assert report.gaps == 1000
    assert len(report.gap_times) == GAP_TIMES_KEPT
    assert len(report.warnings) == WARNINGS_KEPT
