"""Complete runs over real clips with the bundled model."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import media
from tests.support.otlp_receiver import OtlpReceiver, values
from tests.support.result_schema import validate_row
from vision_infer.config.run import RunSettings, run_settings
from vision_infer.core.errors import EngineError, ModelError, OutputError, StreamError, UsageError
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.status import StreamStatus

pytest.importorskip("onnxruntime")
FRAMES = 20


def settings(sources: Sequence[Path | str], **options: Any) -> RunSettings:
    given = {"engine": "onnxruntime-cpu-fp32", "workers": 2} | options
    return run_settings(sources=tuple(str(source) for source in sources), **given)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three clips of different sizes, containers and parts of the scene."""
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for name, first, width, height in (("a.mp4", 20, 640, 272), ("b.mkv", 120, 320, 240), ("c.avi", 180, 270, 480)):
        path = folder / name
        path.write_bytes(media.excerpt(first, FRAMES, width, height, path.suffix).read_bytes())
        made.append(path)
    return made


def rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows by stream, without the values that differ between runs."""
    by_stream: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        validate_row(row)
        del row["latency_ms"]
        by_stream.setdefault(row["stream"], []).append(row)
    return by_stream


@pytest.fixture(scope="module")
def alone(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The rows of each clip when it is run alone, one frame at a time."""
    found: dict[str, list[dict[str, Any]]] = {}
    for clip in clips:
        out = tmp_path_factory.mktemp("alone") / "rows.jsonl"
        summary = run(settings([clip], workers=1, out=(str(out),)), threading.Event())
        assert summary.frames == FRAMES
        found |= rows(out)
    return found


def test_three_sources_at_once_give_the_same_results_as_alone(
    clips: list[Path], alone: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    summary = run(settings(clips, out=(str(out),)), threading.Event())
    together = rows(out)
    assert together == alone
    assert sum(len(row["detections"]) for row in together["a"]) > FRAMES  # people and bicycles
    assert (summary.frames, summary.decoded, len(summary.sources)) == (3 * FRAMES, 3 * FRAMES, 3)
    assert not summary.failed
    assert not summary.interrupted
    assert summary.detections == sum(len(row["detections"]) for stream in together.values() for row in stream)
    assert [row["frame"] for row in together["b"]] == list(range(FRAMES))


def test_batches_give_the_same_detections(clips: list[Path], alone: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    """Not bit for bit: a larger batch may add in another order. A score near the threshold may be on either side."""
    out = tmp_path / "rows.jsonl"
    run(settings(clips, batch=4, out=(str(out),)), threading.Event())
    together = rows(out)
    for name, expected in alone.items():
        assert [row["frame"] for row in together[name]] == list(range(FRAMES))
        for ours, theirs in zip(together[name], expected, strict=True):
            sure = [[one for one in row["detections"] if one["score"] > 0.36] for row in (ours, theirs)]
            assert [one["label"] for one in sure[0]] == [one["label"] for one in sure[1]]
            for one, other in zip(*sure, strict=True):
                assert np.abs(np.subtract(one["box"], other["box"])).max() < 0.5


def test_every_nth_frame_and_a_video_of_all(clips: list[Path], alone: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    summary = run(settings(clips[:1], every=5, out=(f"{tmp_path}/",)), threading.Event())
    (found,) = rows(tmp_path / "a.jsonl").values()
    assert found == alone["a"][::5]
    assert (summary.frames, summary.decoded) == (len(found), FRAMES)
    assert len(media.decoded(tmp_path / "a.mp4")) == FRAMES
    assert sorted(summary.outputs) == [str(tmp_path / "a.jsonl"), str(tmp_path / "a.mp4")]


def test_tracks_are_numbered_from_one(clips: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    run(settings(clips[:1], track=True, out=(str(out),)), threading.Event())
    tracks = {one["track_id"] for row in rows(out)["a"] for one in row["detections"] if "track_id" in one}
    assert tracks
    assert min(tracks) >= 1


def test_a_failed_source_is_in_the_summary_and_the_others_are_complete(clips: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "rows.jsonl"
    summary = run(settings([text, clips[1], tmp_path / "none.mp4", empty], out=(str(out),)), threading.Event())
    assert summary.failed
    by_name = {source["name"]: source for source in summary.sources}
    assert by_name["b"]["state"] == "ended"
    assert by_name["b"]["frames"] == FRAMES
    for name in ("text", "none"):
        assert by_name[name]["state"] == "failed"
        assert by_name[name]["error"]
        assert by_name[name]["frames"] == 0
    assert len(summary.sources) == 4
    assert sum(source["state"] == "failed" for source in summary.sources) == 3
    assert list(rows(out)) == ["b"]
    json.dumps(summary.to_dict())


def test_stopping_keeps_the_results_so_far(tmp_path: Path) -> None:
    stopping = threading.Event()

    def progress(statuses: Sequence[StreamStatus]) -> None:
        if statuses[0].results:
            stopping.set()

    source = media.bikes()
    summary = run(settings([source], out=(f"{tmp_path}/",)), stopping, progress)
    assert summary.interrupted
    (status,) = summary.sources
    assert status["state"] == "stopped"
    (found,) = rows(tmp_path / "bikes.jsonl").values()
    assert [row["frame"] for row in found] == list(range(len(found)))
    assert 0 < len(found) == summary.frames < 250
    assert len(media.decoded(tmp_path / "bikes.mp4")) == len(found)


def test_a_folder_of_images(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, name in enumerate(("b.jpg", "a.png", "a.jpg")):
        frame = media.decoded(media.bikes())[index * 50]
        media.write_jpeg(folder / name, np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
    (folder / "broken.jpg").write_text("not an image")
    summary = run(settings([folder], out=(f"{tmp_path}/out/",)), threading.Event())
    (source,) = summary.sources
    assert (source["frames"], source["gaps"], source["state"]) == (3, 1, "ended")
    found = rows(tmp_path / "out" / "photos.jsonl")["photos"]
    assert [row["file"] for row in found] == ["a.jpg", "a.png", "b.jpg"]
    assert sorted(path.name for path in (tmp_path / "out" / "photos").iterdir()) == ["a.jpg", "a.png.jpg", "b.jpg"]


def test_a_run_with_an_unwritable_output_does_no_work(clips: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("older\n")
    with pytest.raises(OutputError, match="exists already"):
        run(settings(clips, out=(str(out),), model="no-such-model"), threading.Event())
    assert out.read_text() == "older\n"


def test_errors_of_the_whole_run_are_raised(clips: list[Path], tmp_path: Path) -> None:
    for options, error in (
        ({"model": "nanodet-417"}, ModelError),
        ({"engine": "onnxruntme"}, EngineError),
        ({"classes": ("persn",)}, UsageError),
        ({"secondary": "nanodet-416"}, ModelError),
        ({"engine": "auto", "device": "tpu"}, UsageError),
    ):
        with pytest.raises(error):
            run(settings(clips, **options, out=(f"{tmp_path}/new/", f"{tmp_path}/rows.jsonl")), threading.Event())
        assert list(tmp_path.iterdir()) == [], "a run that is refused leaves nothing, not even its journal"
    with pytest.raises(StreamError):
        run(settings([tmp_path]), threading.Event())


def test_a_refused_run_keeps_the_journal_of_an_interrupted_one(clips: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / ".rows.jsonl.resume"
    journal.write_text("of an earlier run\n")
    with pytest.raises(UsageError):
        run(settings(clips, classes=("persn",), out=(f"{tmp_path}/rows.jsonl",), overwrite=True), threading.Event())
    assert journal.read_text() == "of an earlier run\n"


def test_a_run_whose_outputs_cannot_be_opened_leaves_no_journal(clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / ".b.csv.partial").mkdir()  # blocks the second output
    with pytest.raises(OutputError):
        run(settings(clips, out=(f"{tmp_path}/a.jsonl", f"{tmp_path}/b.csv")), threading.Event())
    assert [path.name for path in tmp_path.iterdir()] == [".b.csv.partial"]


def test_only_the_requested_classes_are_reported(
    clips: list[Path], alone: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    run(settings(clips[:1], classes=("Person", " bicycle "), confidence=0.5, out=(str(out),)), threading.Event())
    expected = [
        [one for one in row["detections"] if one["label"] in ("person", "bicycle") and one["score"] >= 0.5] for row in alone["a"]
    ]
    assert [row["detections"] for row in rows(out)["a"]] == expected
    assert any(expected)


def test_threads_have_ended_after_a_run(clips: list[Path]) -> None:
    before = set(threading.enumerate())
    run(settings(clips), threading.Event())
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()


def test_traces_of_frames_are_sent_as_the_telemetry_block_of_a_file_says(clips: list[Path], tmp_path: Path) -> None:
    file, secret = tmp_path / "cameras.yaml", tmp_path / "secret"
    secret.write_text("Bearer 7\n", encoding="utf-8")
    with OtlpReceiver() as receiver:
        headers = "headers: {Authorization: 'file:secret'}"
        text = (
            f"telemetry: {{endpoint: '{receiver.url}', sample_ratio: 1, {headers}}}\nstreams: {{door: {{detect: 'test://'}}}}\n"
        )
        file.write_text(text, encoding="utf-8")
        summary = run(settings(clips[:2], out=(str(tmp_path / "rows.jsonl"),), telemetry=file), threading.Event())
        assert summary.frames == 2 * FRAMES
        frames = [values(span.attributes) for span in receiver.spans if span.name == "frame"]
        sent = {(one["vision_infer.stream"], one["vision_infer.frame"]) for one in frames}
        assert sent == {(stream, number) for stream in ("a", "b") for number in range(FRAMES)}
        assert {headers["authorization"] for headers in receiver.headers} == {"Bearer 7"}
    file.write_text("telemetry: {sample_ratio: 1}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"has no telemetry\.endpoint"):
        run(settings(clips[:1], telemetry=file), threading.Event())
