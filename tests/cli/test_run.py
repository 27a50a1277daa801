"""``vision-infer run`` on real clips, verified with independent readers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import cv2
import numpy as np
import pytest

from tests.cli.conftest import Command
from tests.support.media import Clip, Sound, bikes, clip
from tests.support.result_schema import validate_row
from vision_infer.cli.table import _live_lines
from vision_infer.pipeline.runs.summary import RunSummary


def rows(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in found:
        validate_row(row)
    return found


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the first 30 frames of a real clip with copied packets."""
    path = tmp_path_factory.mktemp("clip") / "short.mp4"
    with av.open(str(bikes())) as source, av.open(str(path), "w") as output:
        video = source.streams.video[0]
        stream = output.add_stream_from_template(video)
        for number, packet in enumerate(source.demux(video)):
            if packet.dts is None or number == 30:
                break
            packet.stream = stream
            output.mux(packet)
    return path


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_clip_gives_a_row_per_frame_and_correct_latencies(command: Command, short: Path, tmp_path: Path) -> None:
    done = command("run", short, "--out", "rows.jsonl", "--summary", "summary.json", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = rows(tmp_path / "rows.jsonl")
    count = frames_of(short)
    assert [row["frame"] for row in found] == list(range(count))
    assert [row["pts_s"] for row in found] == pytest.approx([number / 25 for number in range(count)])
    assert {(row["stream"], row["width"], row["height"], row["model"]) for row in found} == {("short", 640, 272, "nanodet-416")}
    for row in found:
        spent = row["latency_ms"]
        parts = sum(spent[stage] for stage in ("decode", "queue", "preprocess", "inference", "postprocess"))
        assert parts == pytest.approx(spent["total"], abs=0.01)
        assert all(0 <= box[0] < box[2] <= 640 and 0 <= box[1] < box[3] <= 272 for box in (d["box"] for d in row["detections"]))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["frames"] == summary["decoded"] == count
    assert summary["detections"] == sum(len(row["detections"]) for row in found) > 0
    assert set(summary["stages"]) == {"decode", "queue", "preprocess", "inference", "postprocess", "write"}
    assert sum(stage["share"] for stage in summary["stages"].values()) == pytest.approx(1, abs=0.001)
    assert summary["fps"] == pytest.approx(count / summary["seconds"], rel=0.01)
    assert summary["sources"][0] | {"error": None, "gaps": 0, "state": "ended"} == summary["sources"][0]
    assert 0 < summary["cpu_seconds"] < 60
    assert summary["peak_rss_bytes"] > 20e6
    assert summary["bound_by"] in {"decode", "preprocess", "inference", "postprocess", "write", "nothing"}


def test_resuming_a_finished_run_reports_that_nothing_was_left(command: Command, short: Path, tmp_path: Path) -> None:
    options = ("run", short, "--out", "rows.jsonl", "--every", "10", "--resume")
    first = command(*options)
    assert (first.returncode, "3 frames of 30 decoded" in first.stderr) == (0, True), first.stderr
    assert "bound by nothing" not in first.stderr
    again = command(*options, "--summary", "summary.json")
    assert (again.returncode, again.stderr.splitlines()[-1]) == (0, "all sources were finished by an earlier run")
    assert "frames" not in again.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["frames"], summary["seconds"], summary["fps"]) == (0, 0, 0)


def test_several_sources_give_the_same_results_as_separate_runs(command: Command, short: Path, tmp_path: Path) -> None:
    other = clip(Clip(sound=Sound()))
    image = tmp_path / "still.png"
    with av.open(str(short)) as container:
        rgb = next(container.decode(video=0)).to_ndarray(format="rgb24")
    cv2.imwrite(str(image), rgb[..., ::-1])
    sources = (short, other, image)
    for source in sources:
        assert command("run", source, "--every", "3", "--out", f"{Path(source).stem}.alone.jsonl", "--quiet").returncode == 0
    assert command("run", *sources, "--every", "3", "--out", "all.jsonl", "--out", "sets/", "--quiet").returncode == 0
    together = rows(tmp_path / "all.jsonl")
    for source in sources:
        name = Path(source).stem
        alone = [row | {"latency_ms": 0} for row in rows(tmp_path / f"{name}.alone.jsonl")]
        assert [row | {"latency_ms": 0} for row in together if row["stream"] == name] == alone
        assert [row | {"latency_ms": 0} for row in rows(tmp_path / "sets" / f"{name}.jsonl")] == alone
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == sorted(
        ["short.jsonl", "short.mp4", f"{other.stem}.jsonl", f"{other.stem}.mp4", "still.jsonl", "still.jpg"]
    )


def test_the_annotated_video_has_the_sources_size_rate_timing_and_sound(command: Command, tmp_path: Path) -> None:
    source = clip(Clip(sound=Sound()))
    assert command("run", source, "--out", "drawn.mp4", "--every", "3", "--quiet").returncode == 0
    with av.open(str(source)) as before, av.open(str(tmp_path / "drawn.mp4")) as after:
        assert after.streams.video[0].codec_context.name == "h264"
        assert after.streams.video[0].average_rate == before.streams.video[0].average_rate
        wanted = [(frame.time, frame.width, frame.height) for frame in before.decode(video=0)]
        drawn = [(frame.time, frame.width, frame.height) for frame in after.decode(video=0)]
        assert [frame[1:] for frame in drawn] == [frame[1:] for frame in wanted]
        assert [frame[0] for frame in drawn] == pytest.approx([frame[0] for frame in wanted], abs=1e-4)
        assert after.streams.audio[0].codec_context.name == "aac"


def test_rows_on_standard_output_end_silently_when_the_reader_closes_it(command: Command, short: Path) -> None:
    done = command("run", short, "--out", "-", "--every", "10", "--quiet")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["frame"] for row in found] == [0, 10, 20]
    assert done.stderr == ""


def test_json_prints_the_summary_alone_on_standard_output(command: Command, short: Path) -> None:
    done = command("run", short, "--json", "--every", "10")
    assert json.loads(done.stdout)["frames"] == 3
    assert "3 frames of 30 decoded" in done.stderr


def test_a_folder_of_images_is_one_stream_whose_rows_name_the_file(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b.jpg", "a.jpg", "c.png"):
        cv2.imwrite(str(folder / name), np.full((40, 60, 3), 90, np.uint8))
    (folder / "notes.txt").write_text("no picture")
    assert command("run", folder, "--out", "out/", "--quiet").returncode == 0
    found = rows(tmp_path / "out" / "photos.jsonl")
    assert [(row["stream"], row["frame"], row["file"], row["pts_s"]) for row in found] == [
        ("photos", 0, "a.jpg", None),
        ("photos", 1, "b.jpg", None),
        ("photos", 2, "c.png", None),
    ]
    assert sorted(path.name for path in (tmp_path / "out" / "photos").iterdir()) == ["a.jpg", "b.jpg", "c.jpg"]


def test_classes_confidence_and_tracks(command: Command, short: Path, tmp_path: Path) -> None:
    done = command("run", short, "--classes", "Person, car", "--confidence", "0.4", "--track", "--out", "t.jsonl", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    found = [detection for row in rows(tmp_path / "t.jsonl") for detection in row["detections"]]
    assert {detection["label"] for detection in found} <= {"person", "car"}
    assert any("track_id" in detection for detection in found)
    assert all(detection["score"] >= 0.4 for detection in found if "track_id" not in detection)


@pytest.mark.slow  # tests/pipeline/test_offline_run.py tests the same without the command
@pytest.mark.parametrize("batch", ["1", "4"])
def test_batches_do_not_change_the_results(command: Command, short: Path, tmp_path: Path, batch: str) -> None:
    assert command("run", short, "--out", "one.jsonl", "--workers", "1", "--quiet").returncode == 0
    assert command("run", short, "--out", "many.jsonl", "--workers", "3", "--batch", batch, "--quiet").returncode == 0
    for one, many in zip(rows(tmp_path / "one.jsonl"), rows(tmp_path / "many.jsonl"), strict=True):
        assert len(one["detections"]) == len(many["detections"])
        for first, second in zip(one["detections"], many["detections"], strict=True):
            assert first["class_id"] == second["class_id"]
            assert first["box"] == pytest.approx(second["box"], abs=0.05)
            assert first["score"] == pytest.approx(second["score"], abs=1e-3)


def test_a_broken_source_does_not_affect_the_others(command: Command, short: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("this is text\n" * 50)
    done: subprocess.CompletedProcess[str] = command("run", "broken.mp4", short, "gone.mp4", "--out", "rows.jsonl")
    assert done.returncode == 1
    assert len(rows(tmp_path / "rows.jsonl")) == 30
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert [error.split(":")[1].strip() for error in errors] == ["broken.mp4", "gone.mp4"]


def test_nvdec_falls_back_to_the_cpu_with_a_warning(
    command: Command, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = {}
    for decode, message in (("cpu", 0), ("auto", 0), ("nvdec", 1)):
        done = command("run", short, "--out", f"{decode}.jsonl", "--decode", decode, "--device", "cpu", "--json", "--quiet")
        assert done.returncode == 0
        warnings = done.stderr.splitlines()
        assert len(warnings) == message
        (source,) = json.loads(done.stdout)["sources"]
        assert (source["decoder"], len(source["warnings"])) == ("cpu", message)
        found[decode] = [row["detections"] for row in rows(tmp_path / f"{decode}.jsonl")]
    assert warnings[0].startswith(f"warning: {short}: is decoded on the CPU: FFmpeg cannot use cuda:0")
    assert found["nvdec"] == found["cpu"] == found["auto"]


def test_a_camera_runs_for_the_duration(command: Command, tmp_path: Path) -> None:
    done = command("run", "test://?size=160x90&fps=10", "--model", "clock", "--duration", "1", "--out", "rows.jsonl")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "rows.jsonl")
    assert "test: live" in done.stderr
    assert "test: age of results p50" in done.stderr


def test_options_for_files_are_refused_for_cameras(in_process: Command, short: Path) -> None:
    done = in_process("run", "test://", "--start", "2", "--resume")
    assert (done.returncode, "--start and --resume apply to files only. Leave them out." in done.stderr) == (2, True), done.stderr
    assert "--every applies to files only. For cameras, use --fps." in in_process("run", "test://", "--every", "2").stderr
    done = in_process("run", short, "--duration", "2")
    assert "--duration applies to cameras only. For files, use --end." in done.stderr
    assert "cameras and files cannot be read in one run" in in_process("run", short, "rtsp://127.0.0.1/x").stderr


def test_videos_and_images_without_labels_differ_from_those_with_scores(in_process: Command, short: Path, tmp_path: Path) -> None:
    sizes = {}
    for text in ("scores", "names", "none"):
        done = in_process("run", short, "--every", "10", "--draw-labels", text, "--out", f"{text}.mp4", "--quiet")
        assert done.returncode == 0, done.stderr
        with av.open(str(tmp_path / f"{text}.mp4")) as video:
            sizes[text] = next(video.decode(video=0)).to_ndarray(format="rgb24")
    assert (sizes["scores"] != sizes["names"]).any()
    assert (sizes["names"] != sizes["none"]).any()


@pytest.mark.parametrize(
    ("names", "accepted"),
    [
        (["frame-0001", "frame-0002", "frame-0003"], True),
        (["000010", "000005", "000015"], True),
        (["beach", "mountains"], False),
        (["000000000139", "000000000285", "000000000632"], False),
        (["a1", "b2"], False),
    ],
)
def test_objects_are_tracked_in_sequences_of_images_only(
    in_process: Command, tmp_path: Path, names: list[str], accepted: bool
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in names:
        cv2.imwrite(str(folder / f"{name}.png"), np.zeros((32, 32, 3), np.uint8))
    done = in_process("run", folder, "--track", "--model", "clock", "--quiet")
    refused = "--track: the images of photos are not a numbered sequence of frames" in done.stderr
    assert (done.returncode, refused) == ((0, False) if accepted else (2, True)), done.stderr


def test_the_line_of_a_camera_has_its_losses() -> None:
    source = {"name": "door", "age_ms": {"p50": 20.0, "p95": 31.0}, "dropped": {"stale": 2}, "reconnects": 1}
    sources = ({**source, "rtp_packets": {"received": 990, "lost": 10}}, {**source, "rtp_packets": {}})
    lossy, other = _live_lines(cast(RunSummary, SimpleNamespace(sources=sources)))
    assert other == "door: age of results p50 20 ms, p95 31 ms; 2 frames dropped (stale 2), 1 reconnects"
    assert lossy == f"{other}, 10 packets lost"
