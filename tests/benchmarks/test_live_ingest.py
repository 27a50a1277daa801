"""The comparison of the ways to read an RTSP camera: its cameras, its readers and its tables."""

from __future__ import annotations

import statistics

import pytest

from benchmarks import live_ingest
from benchmarks.ingest_camera import RecordedCameras, slices_of
from benchmarks.ingest_reader import cost, pictures
from benchmarks.live_ingest import (
    AgeRun,
    CostRun,
    LossRun,
    age_checks,
    age_table,
    cost_checks,
    cost_table,
    in_turn,
    loss_checks,
    loss_run,
    loss_table,
)
from tests.support.rtp_packets import annex_b, slice264

FPS = 100
SETS = (bytes.fromhex("6742c00ad901a1c3f2d40f124d"), bytes.fromhex("68cb83cb20"))
VIDEO = [annex_b(*SETS, slice264(5, 6000)), *(annex_b(slice264(1, 3000, fill=number)) for number in range(1, 40))]


def test_only_the_slices_of_a_picture_are_compared() -> None:
    assert slices_of(VIDEO[0]) == slice264(5, 6000)
    assert slices_of(b"\0\0\1\x09\xf0\0\0\1" + slice264(1, 20)) == slice264(1, 20)


def test_each_lost_packet_is_counted_and_each_cut_picture_is_damaged() -> None:
    with RecordedCameras(VIDEO, FPS, loss=0.2, loses=range(5, 45)) as cameras:
        received = pictures("rtp", 50, cameras.url("/"))
    run = loss_run("rtp", VIDEO, cameras, received.pictures, received.lost)
    assert run.sent > 40 * 2
    assert 0 < run.lost == run.counted
    assert run.cut == 0 < run.damaged
    assert all(check.good for check in loss_checks([run]))


def test_a_cut_picture_that_is_given_out_as_whole_is_found() -> None:
    with RecordedCameras(VIDEO, FPS) as cameras:
        run = loss_run("rtp", VIDEO, cameras, [("an unknown picture", False), ("another", True)], 1)
    assert (run.cut, run.damaged) == (1, 1)
    assert [check.good for check in loss_checks([run])] == [False, False, False]


def test_several_cameras_are_read_without_decoding() -> None:
    with RecordedCameras(VIDEO, FPS) as cameras:
        found = cost("rtp", 0.5, [cameras.url(f"/{number}") for number in range(3)], decode=False)
    assert found.packets_per_s == pytest.approx(3 * FPS, rel=0.5), "the machine may be busy"
    assert 0 < found.cores < 2
    assert cameras.late_s < 5


def ages(reader: str, ms: float) -> AgeRun:
    return AgeRun(30, reader, (ms, ms + 1), () if reader == "gstreamer" else (ms - 1, ms), 0.0)


def test_the_tables_show_all_readers_and_what_is_missing() -> None:
    table = age_table([ages("rtp", 3), ages("ffmpeg", 35), ages("gstreamer", 4)])
    assert table == [
        "| Age, ms: p50/p95/p99 | 30/s |",
        "|---|---|",
        "| `ingest: rtp` | 4.0/4.0/4.0 |",
        "| as it reports | 3.0/3.0/3.0 |",
        "| `ingest: ffmpeg` | 36.0/36.0/36.0 |",
        "| as it reports | 35.0/35.0/35.0 |",
        "| GStreamer | 5.0/5.0/5.0 |",
    ]
    assert age_table([ages("rtp", 3), ages("ffmpeg", 35)]) == table[:-1]
    loss = LossRun("ffmpeg", 100, 2, None, 40, 0, 2)
    assert loss_table([loss])[-1] == "| `ingest: ffmpeg` | 100 | 2 | – | 40 | 0 | 2 |"


def test_the_targets_of_age_and_cost() -> None:
    assert all(check.good for check in age_checks([ages("rtp", 3), ages("ffmpeg", 35)]))
    assert [check.good for check in age_checks([ages("rtp", 7)])] == [False, False, True, True, True, True]
    runs = [
        CostRun("one read", name, 1, percent, 1.0, 0.1, 0.0)
        for name, percent in (("rtp", 2.5), ("ffmpeg", 1.0), ("control", 1.1))
    ]
    assert cost_table(runs)[-1] == "| 1 camera, not decoded | 2.50 | 1.00 | +1.50 | +0.10 |"
    assert [check.good for check in cost_checks(runs)] == [False, True]
    assert in_turn(("a", "b", "c"), 4) == ("b", "c", "a")


@pytest.mark.slow
def test_all_readers_measure_the_age_of_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_ingest, "RATES", (30,))
    runs = live_ingest.measure_ages(1, 1)
    assert {run.reader for run in runs} >= {"rtp", "ffmpeg"}
    for run in runs:
        assert len(run.true) > 10
        assert 0 < statistics.median(run.true) < 500, "the machine may be busy"
        assert len(run.reported) == (0 if run.reader == "gstreamer" else len(run.true))
