"""The command with all outputs on a real clip, each read back with an independent reader; and a full disk."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import pytest

from tests.support import media
from tests.support.assets import photographs
from tests.support.disks import small_disk
from tests.support.result_schema import validate_row
from vision_infer.config.run import run_settings
from vision_infer.precision.accuracy import evaluate

pytest.importorskip("onnxruntime")
COCO = pytest.importorskip("pycocotools.coco").COCO
EVERY = 10
FRAMES = 250 // EVERY
FORMATS = "jsonl,mp4,csv,parquet,json,txt"


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "vision_infer", "run", *map(str, arguments), "--device", "cpu"]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of one run."""
    folder = tmp_path_factory.mktemp("outputs")
    done = command(
        media.bikes(), "--every", str(EVERY), "--confidence", "0.3", "--track",
        "--out", f"{folder}/set/", "--formats", FORMATS, "--out", folder / "all.csv", "--out", folder / "all.parquet",
        "--out", folder / "all.json", "--out", folder / "all.jsonl", "--crops", folder / "crops", "--preview-fps", "5",
        "--preview-size", "136", "--rotate-mb", "0.005", "--summary", folder / "summary.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a JSONL output and of its further parts, in order."""
    parts = [out / f"{name}.jsonl"]
    while (part := out / f"{name}-{len(parts) + 1}.jsonl").exists():
        parts.append(part)
    assert len(parts) > 1
    return [json.loads(line) for part in parts for line in part.read_text(encoding="utf-8").splitlines()]


def found(out: Path) -> list[tuple[int, int, float, list[float], int | None]]:
    """Return all detections: frame, class, score, box, track."""
    return [
        (row["frame"], one["class_id"], one["score"], one["box"], one.get("track_id"))
        for row in rows(out / "set", "bikes")
        for one in row["detections"]
    ]


def close_to(values: list[float], wanted: list[float]) -> bool:
    return all(abs(value - other) <= 0.011 for value, other in zip(values, wanted, strict=True))


def test_rows(out: Path) -> None:
    own, shared = rows(out / "set", "bikes"), rows(out, "all")
    assert [row["frame"] for row in own] == list(range(0, 250, EVERY))
    assert own == shared
    for row in own:
        validate_row(row)
    assert len(found(out)) > FRAMES


@pytest.mark.parametrize("name", ["set/bikes.csv", "all.csv"])
def test_csv(out: Path, name: str) -> None:
    with (out / name).open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    for row, (frame, class_id, score, box, track) in zip(read, found(out), strict=True):
        assert (int(row["frame"]), int(row["class_id"]), float(row["score"])) == (frame, class_id, score)
        assert close_to([float(row[edge]) for edge in ("x1", "y1", "x2", "y2")], box)
        assert row["track_id"] == ("" if track is None else str(track))
        assert float(row["pts_s"]) == pytest.approx(frame / 25)


@pytest.mark.parametrize("name", ["set/bikes.parquet", "all.parquet"])
def test_parquet(out: Path, name: str) -> None:
    for row, (frame, class_id, score, box, track) in zip(pq.read_table(out / name).to_pylist(), found(out), strict=True):
        assert (row["stream"], row["frame"], row["class_id"], row["track_id"]) == ("bikes", frame, class_id, track)
        assert row["score"] == pytest.approx(score, abs=1e-4)
        assert close_to([row[edge] for edge in ("x1", "y1", "x2", "y2")], box)


@pytest.mark.parametrize("name", ["set/bikes", "all"])
def test_coco(out: Path, name: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        images = COCO(str(out / f"{name}.json"))
    assert len(images.imgs) == FRAMES
    for one, (frame, class_id, _, box, _) in zip(images.loadAnns(images.getAnnIds()), found(out), strict=True):
        assert images.imgs[one["image_id"]]["frame"] == frame
        left, top, width, height = one["bbox"]
        assert close_to([left, top, left + width, top + height], [round(edge, 2) for edge in box])
        if class_id == 0:
            assert images.cats[one["category_id"]]["name"] == "person"


def test_mot(out: Path) -> None:
    lines = [line.split(",") for line in (out / "set" / "bikes.txt").read_text().splitlines()]
    for line, (frame, class_id, _, box, track) in zip(lines, found(out), strict=True):
        assert (int(line[0]), int(line[1]), int(line[7])) == (frame + 1, track or -1, class_id + 1)
        assert close_to([float(line[2]), float(line[3])], [box[0] + 1, box[1] + 1])


def test_video(out: Path) -> None:
    decoded = media.decoded(out / "set" / "bikes.mp4")
    assert {(one.width, one.height) for one in decoded} == {(320, 136)}
    assert [round(float(one.time or 0), 3) for one in decoded] == [round(number / 5, 3) for number in range(50)]
    with av.open(str(out / "set" / "bikes.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_crops(out: Path) -> None:
    files = sorted((out / "crops" / "bikes").rglob("*.jpg"))
    assert len(files) == len(found(out))
    by_frame = {int(path.stem.split("_")[1]) for path in files}
    assert by_frame == {frame for frame, *_ in found(out)}
    assert any(path.parent.name == "person" for path in files)


def test_the_summary_names_what_was_written(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    named = [Path(path) for path in summary["outputs"]]
    assert len(set(named)) == len(named)
    written = {path for path in out.rglob("*") if path.is_file() and "crops" not in path.parts} - {out / "summary.json"}
    assert {*written, out / "crops" / "bikes"} == set(named)
    assert list(summary["encoders"]) == [str(out / "set" / "bikes.mp4")]
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_several_sources(tmp_path: Path) -> None:
    names = ["one", "two"]
    for name, first in zip(names, (20, 150), strict=True):
        os.link(media.excerpt(first, 10, 320, 136), tmp_path / f"{name}.mp4")
    clips = [tmp_path / f"{name}.mp4" for name in names]
    done = command(*clips, "--out", tmp_path / "all.csv", "--out", f"{tmp_path}/set/", "--formats", "txt,csv")
    assert done.returncode == 0, done.stderr
    both = [(tmp_path / "set" / f"{name}.csv").read_text().splitlines()[1:] for name in names]
    assert sorted((tmp_path / "all.csv").read_text().splitlines()[1:]) == sorted(both[0] + both[1])
    assert all((tmp_path / "set" / f"{name}.txt").exists() for name in names)
    for out in ("all.mp4", "all.txt"):
        refused = command(*clips, "--out", tmp_path / out)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "FOLDER/" in refused.stderr


def test_a_full_disk_stops_the_run_and_keeps_whole_files(tmp_path: Path) -> None:
    clip = media.bikes()
    with small_disk(450 * 1024) as disk:
        done = command(clip, "--every", "50", "--out", disk / "bikes.mp4", "--out", tmp_path / "rows.jsonl")
        assert done.returncode == 5, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert "no space left" in line
        assert " free); this output needs about" in line
        assert "it can be played up to this point" in line
        decoded = media.decoded(disk / "bikes.mp4")
        assert 0 < len(decoded) < 250
        assert f"wrote {disk / 'bikes.mp4'}" in done.stderr
    for row in (tmp_path / "rows.jsonl").read_text().splitlines():
        validate_row(json.loads(row))


def test_a_full_disk_under_rows_that_all_sources_share() -> None:
    with small_disk(32 * 1024) as disk:
        done = command(media.bikes(), "--confidence", "0.05", "--every", "2", "--out", disk / "rows.csv")
        assert done.returncode == 5, done.stderr
        assert " free); this output needs about" in done.stderr
        with (disk / "rows.csv").open(newline="") as file:
            read = list(csv.DictReader(file))
        assert read
        assert all(None not in row.values() for row in read)
        assert not list(disk.glob(".*.partial"))


def readable(folder: Path) -> dict[str, int]:
    """Return the number of frames in each output of ``folder``."""
    with (folder / "cut.csv").open(newline="") as file:
        rows = len(list(csv.DictReader(file)))
    return {
        "frames": sum(1 for line in (folder / "cut.jsonl").read_text().splitlines() if json.loads(line)),
        "csv": rows,
        "parquet": pq.read_table(folder / "cut.parquet").num_rows,
        "coco": len(json.loads((folder / "cut.json").read_text())["annotations"]),
        "images": len(json.loads((folder / "cut.json").read_text())["images"]),
        "mot": len((folder / "cut.txt").read_text().splitlines()),
        "video": len(media.decoded(folder / "cut.mp4")),
    }


@pytest.mark.parametrize("how", ["stopped", "source cut off"])
def test_a_run_that_ends_early_leaves_whole_files(tmp_path: Path, how: str) -> None:
    clip, folder = tmp_path / "cut.mkv", tmp_path / "out"
    if how == "stopped":
        clip.write_bytes(media.bikes().read_bytes())
    else:
        data = media.excerpt(20, 60, 640, 272, ".mkv").read_bytes()
        clip.write_bytes(data[: len(data) // 2])
    words = [sys.executable, "-m", "vision_infer", "run", str(clip), "--device", "cpu"]
    words += ["--out", f"{folder}/", "--formats", FORMATS, "--out", "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if how == "stopped":
            assert process.stdout is not None
            for line in process.stdout:
                row = json.loads(line)
                if row["frame"] >= 20 and row["detections"]:
                    break
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode in ((130,) if how == "stopped" else (0, 1)), errors
    held = readable(folder)
    assert 0 < held["frames"] < 250
    assert held["frames"] == held["images"] == held["video"]
    assert held["csv"] == held["parquet"] == held["coco"] == held["mot"] > 0
    assert not list(folder.glob(".*.partial"))


def test_coco_results_have_the_score_of_our_evaluation(tmp_path: Path) -> None:
    """Compare with COCO's annotations, by the numbers of images and categories."""
    from pycocotools.cocoeval import COCOeval

    photos = photographs().parent
    numbered = tmp_path / "numbered"  # the names of these images are their numbers
    numbered.mkdir()
    for image in json.loads((photos / "instances.json").read_text())["images"]:
        shutil.copy(photos / "images" / image["file_name"], numbered / f"{image['id']}.jpg")
    out = tmp_path / "found.json"
    square = str(media.ROOT / "models" / "nanodet-416" / "model.onnx")  # by name, wide images would use another input size
    done = command(numbered, "--model", square, "--confidence", "0.001", "--iou", "0.65", "--out", out)
    assert done.returncode == 0, done.stderr
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(photos / "instances.json"))
        scored = COCOeval(truth, truth.loadRes(COCO(str(out)).dataset["annotations"]), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    settings = run_settings(sources=("-",), model=square, device="cpu")
    report = evaluate(settings, photos / "instances.json", photos / "images")
    assert 100 * scored.stats[0] == pytest.approx(report.figures["AP"], abs=0.05)
    assert 100 * scored.stats[1] == pytest.approx(report.figures["AP50"], abs=0.05)
