"""Reading options reach the source, and losses reach rows and summary."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.pipeline.fakes import EchoEngine, FakeSink, FakeSource, run_all
from tests.stream.test_stream_damage import FAST_START
from tests.support import media, odd_files
from tests.support.result_schema import validate_row
from vision_infer.config.run import run_settings
from vision_infer.core.drop import DropReason
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.runs.summary import RunSummary


@pytest.mark.parametrize(("fps", "every", "wanted"), [(5.0, 1, 10), (12.5, 1, 25), (100.0, 1, 50), (5.0, 2, 10), (None, 2, 25)])
def test_frames_per_second_by_the_time_of_the_stream(fps: float | None, every: int, wanted: int) -> None:
    """Two seconds at 25 frames per second, read as fast as possible."""
    source, sink = FakeSource(0, count=50), FakeSink()
    supervisor = run_all(EchoEngine(), [source], sink, {"fps": fps, "every": every})
    (record,) = supervisor.records()
    assert record.results == wanted
    assert record.dropped.get(DropReason.PACED, 0) == 50 - wanted
    assert sink.results() == sorted(sink.results())


def run_one(source: Path | str, out: Path, **options: object) -> tuple[RunSummary, list[dict[str, object]]]:
    pytest.importorskip("onnxruntime")
    settings = run_settings(sources=(str(source),), out=(str(out),), device="cpu", workers=1, **options)
    summary = run(settings, threading.Event())
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        validate_row(row)
    return summary, rows


def test_damaged_frames_are_in_the_rows_and_in_the_summary(tmp_path: Path) -> None:
    summary, rows = run_one(odd_files.overwritten(FAST_START, 0.3, 700), tmp_path / "rows.jsonl")
    (source,) = summary.sources
    assert (source["gaps"], source["damaged"], source["state"]) == (1, 1, "ended")
    assert source["gap_times"] == [[0.32, 0.76]]
    assert [row["pts_s"] for row in rows if row.get("damaged")] == [0.28]
    assert not any("damaged" in row and row["damaged"] is not True for row in rows)


def test_a_truncated_file_is_a_warning_and_not_a_failure(tmp_path: Path) -> None:
    summary, rows = run_one(odd_files.truncated(FAST_START, 0.5), tmp_path / "rows.jsonl")
    (source,) = summary.sources
    assert not summary.failed
    assert source["warnings"] == ["ends at 0.76 s of 2.00 s: truncated, or its header is wrong"]
    assert len(rows) == 19


def test_a_part_of_a_file(tmp_path: Path) -> None:
    summary, rows = run_one(media.clip(media.B_FRAMES), tmp_path / "rows.jsonl", start=0.4, end=0.8, fps=12.5)
    assert [row["frame"] for row in rows] == [0, 2, 4, 6, 8]
    assert [row["pts_s"] for row in rows] == [0.4, 0.48, 0.56, 0.64, 0.72]
    assert summary.decoded == 10


def test_key_frames_and_another_track_and_a_limit(tmp_path: Path) -> None:
    _, rows = run_one(media.clip(media.B_FRAMES), tmp_path / "keys.jsonl", keyframes_only=True)
    assert len(rows) == 4
    _, rows = run_one(odd_files.two_tracks(), tmp_path / "track.jsonl", track_index=1)
    assert {(row["width"], row["height"]) for row in rows} == {(64, 48)}
    settings = run_settings(sources=(str(media.clip(media.H264)),), device="cpu", max_pixels=1000)
    summary = run(settings, threading.Event())
    assert summary.frames == 0
    assert "--max-pixels" in summary.sources[0]["error"]


def test_a_rotated_video_has_its_displayed_size(tmp_path: Path) -> None:
    _, rows = run_one(odd_files.rotated(90), tmp_path / "rows.jsonl")
    assert {(row["width"], row["height"]) for row in rows} == {(96, 128)}


def test_a_source_list_with_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{media.clip(media.H264)}\nnothing.mp4\n", encoding="utf-8")
    summary, rows = run_one(f"@{tmp_path}/list", tmp_path / "rows.jsonl")
    assert len(rows) == 25
    assert summary.failed
    assert summary.sources[1]["source"] == f"{tmp_path}/list:2"
    assert "nothing.mp4: no such file" in summary.sources[1]["error"]


def test_a_file_name_that_is_not_utf8_gives_valid_rows(tmp_path: Path) -> None:
    name = tmp_path.as_posix().encode() + b"/caf\xe9.mp4"
    with open(name, "wb") as file:
        file.write(media.clip(media.H264).read_bytes())
    summary, rows = run_one(f"{tmp_path}/*.mp4", tmp_path / "rows.jsonl")
    assert {row["stream"] for row in rows} == {"caf\\xe9"}
    assert summary.sources[0]["source"].endswith("caf\\xe9.mp4")
