"""Zones, lines and counts of runs over files."""

from __future__ import annotations

import csv
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import media
from vision_infer.config.run import run_settings
from vision_infer.config.zones import read_zones
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.pipeline.runs.api import Detector, Pipeline
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.runs.summary import RunSummary

SCENE = """
lines:
  middle: {units: relative, from: [0.5, 1.0], to: [0.5, 0.0]}
zones:
  all: {units: relative, polygon: [[0, 0], [1, 0], [1, 1], [0, 1]], anchor: center, min_s: 0}
"""


def counted(tmp_path: Path, *outs: str, text: str = SCENE, frames: int = 25, **options: Any) -> RunSummary:
    """Run a second of a real clip, or another number of frames, 25 per second."""
    zones = tmp_path / "zones.yaml"
    zones.write_text(text)
    given: dict[str, Any] = {"engine": "onnxruntime-cpu-fp32", "zones": zones, "out": tuple(str(tmp_path / out) for out in outs)}
    clip = tmp_path / "street.mp4"
    clip.write_bytes(media.excerpt(120, frames, 320, 136).read_bytes())
    return run(run_settings(sources=(str(clip),), **given | options), threading.Event())


def test_a_run_counts_in_rows_summary_and_csv(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    # Annotated video has no image for the last events, but the rows contain them.
    summary = counted(
        tmp_path, "rows.jsonl", "street.txt", "street.mp4.mp4", counts=tmp_path / "counts.csv", counts_interval_s=1, frames=60
    )
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    events = [event for row in rows for event in row.get("events", [])]
    visits = Counter((event["label"], event["kind"]) for event in events if event["place"] == "all")
    assert sum(count for (_, kind), count in visits.items() if kind == "enter") > 0
    (source,) = summary.sources
    assert source["counts"]["all"] == {
        label: {"in": visits[label, "enter"], "out": visits[label, "leave"]} for label, _ in visits
    }
    assert sum(visits[label, "enter"] - visits[label, "leave"] for label in source["counts"]["all"]) == 0  # the stream has ended
    with (tmp_path / "counts.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["start"] for row in written if row["place"] == "middle" and row["label"] == ""] == ["0", "1", "2"]
    entered = Counter({row["label"]: 0 for row in written})
    for row in written:
        if row["place"] == "all":
            entered[row["label"]] += int(row["in"])
    assert {label: count for label, count in entered.items() if count} == {
        label: counts["in"] for label, counts in source["counts"]["all"].items() if counts["in"]
    }
    assert str(tmp_path / "counts.csv") in summary.outputs
    # MOT tools refuse a frame in which a number occurs twice, and have no rows without a number.
    keys = [tuple(line.split(",")[:2]) for line in (tmp_path / "street.txt").read_text().splitlines()]
    assert keys
    assert len(set(keys)) == len(keys)
    assert "-1" not in {number for _, number in keys}


def test_tracking_reports_at_most_the_detections_without_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    clip = media.excerpt(120, 25, 320, 136)
    scores: list[list[float]] = []
    for track in (False, True):
        out = tmp_path / f"{track}.jsonl"
        given: dict[str, Any] = {"track": track, "confidence": 0.4, "engine": "onnxruntime-cpu-fp32", "out": (str(out),)}
        run(run_settings(sources=(str(clip),), **given), threading.Event())
        found = [detection for line in out.read_text().splitlines() for detection in json.loads(line)["detections"]]
        assert all(("track_id" in detection) == track for detection in found)
        scores.append([detection["score"] for detection in found])
    assert 0 < len(scores[1]) <= len(scores[0])
    assert min(scores[1]) >= 0.4


def test_existing_counts_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        counted(tmp_path, counts=tmp_path / "counts.csv")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "contains no settings"),
        ("zones: {}", "contains no zone and no line"),
        ("lines:\n  a: {from: [0, 0], to: [0.5, 0.5]}", "line 2: field 'lines.a': is not longer than a pixel"),
        ("lines:\n  a b: {from: [0, 0], to: [9, 9]}", "line 2"),
        ("streams:\n  strete:\n    lines: {a: {from: [0, 0], to: [9, 9]}}", "none of its streams is in this run"),
        ("lines: {a: {from: [0, 0], to: [9, 9], classes: [unicorn]}}", "unknown class 'unicorn'"),
    ],
)
def test_a_wrong_file_of_zones_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        counted(tmp_path, text=text)
    assert problem in str(raised.value)


def test_a_stream_has_its_own_zones(tmp_path: Path) -> None:
    path = tmp_path / "zones.yaml"
    path.write_text(f"{SCENE}\nstreams:\n  a: {{lines: {{own: {{from: [0, 0], to: [9, 9]}}}}}}\n")
    found = read_zones(path, ["a", "b"])
    assert (list(found.of("a").lines), list(found.of("a").zones)) == (["own"], [])
    assert (list(found.of("b").lines), list(found.of("b").zones)) == (["middle"], ["all"])


def test_zones_of_images_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        media.write_jpeg(tmp_path / f"{number}.jpg", media.numbered(number, 64, 48))
    zones = tmp_path / "zones.yaml"
    zones.write_text(SCENE)
    with pytest.raises(UsageError, match="images have no times"):
        run(run_settings(sources=(str(tmp_path),), zones=zones), threading.Event())
    with pytest.raises(UsageError, match="images have no times"):
        next(iter(Pipeline(Detector(), zones=zones).run(tmp_path)))


@pytest.mark.parametrize("options", [{"counts": "a.csv"}, {"counts": "a.csv", "zones": "z.yaml", "resume": True}])
def test_counts_need_zones_and_a_whole_run(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="counts"):
        run_settings(sources=("a.mp4",), **options)


def test_the_python_pipeline_gives_events(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    zones = tmp_path / "zones.yaml"
    zones.write_text(SCENE)
    clip = media.excerpt(120, 25, 320, 136)
    kinds = [event.kind for result in Pipeline(Detector(), zones=zones).run(clip) for event in result.events]
    assert kinds.count("enter") == kinds.count("leave") > 0
    with pytest.raises(UsageError, match="zones"):
        Pipeline(Detector(), zones=tmp_path / "missing.yaml")
