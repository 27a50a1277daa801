"""Descriptions by secondary models, classifiers and embedders, in every kind of output and in Python."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.engine.graphs import color_graph
from tests.support import media
from vision_infer import Detector, Pipeline
from vision_infer.compare.runs import DiffSettings, diff
from vision_infer.config.run import RunSettings, run_settings
from vision_infer.core.errors import UsageError
from vision_infer.core.result import Result
from vision_infer.pipeline.runs.offline import run

FRAMES = 12


def clip() -> Path:
    return media.excerpt(100, FRAMES, 640, 272)


def settings(folder: Path, out: str, **options: Any) -> RunSettings:
    return run_settings(sources=(str(clip()),), device="cpu", workers=2, out=(str(folder) + "/" + out,), **options)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("task", ["classify", "embed"])
@pytest.mark.parametrize(("out", "formats"), [("a.json", None), ("a.txt", None), ("set/", ("json",)), ("a.csv", None)])
def test_outputs_that_cannot_hold_the_results_are_refused_before_any_work(
    tmp_path: Path, task: Literal["classify", "embed"], out: str, formats: tuple[str, ...] | None
) -> None:
    options = settings(tmp_path, out, formats=formats, model=str(color_graph(tmp_path / "color.onnx", task)))
    if out == "a.csv" and task == "classify":
        run(options, threading.Event())
        return
    with pytest.raises(UsageError, match=f"color-{task} is a model for '{task}'") as caught:
        run(options, threading.Event())
    assert "jsonl" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["color.onnx"]


def test_crops_without_detections_are_refused(tmp_path: Path) -> None:
    options = settings(tmp_path, "a.jsonl", crops=tmp_path / "crops", model=str(color_graph(tmp_path / "color.onnx")))
    with pytest.raises(UsageError, match="CROPS"):
        run(options, threading.Event())


def test_a_secondary_model_needs_detections(tmp_path: Path) -> None:
    graph = str(color_graph(tmp_path / "color.onnx"))
    with pytest.raises(UsageError, match="--secondary: color-classify"):
        run(settings(tmp_path, "a.jsonl", model=graph, secondary=graph), threading.Event())


def test_all_outputs_of_a_run_with_a_secondary_model_agree(tmp_path: Path) -> None:
    formats = ("jsonl", "csv", "parquet", "json", "txt", "mp4")
    secondary = str(color_graph(tmp_path / "color.onnx"))
    run(settings(tmp_path, "out/", formats=formats, secondary=secondary, track=True, confidence=0.3), threading.Event())
    files = {path.suffix: path for path in (tmp_path / "out").iterdir()}
    jsonl = [(row["frame"], one) for row in rows(files[".jsonl"]) for one in row["detections"]]
    with files[".csv"].open(newline="") as file:
        csv_rows = list(csv.DictReader(file))
    parquet = pq.read_table(files[".parquet"]).to_pylist()
    assert len(jsonl) == len(csv_rows) == len(parquet) >= FRAMES
    for (frame, one), of_csv, of_parquet in zip(jsonl, csv_rows, parquet, strict=True):
        best = one["classes"][0]
        assert (int(of_csv["frame"]), of_csv["secondary_label"], float(of_csv["secondary_score"])) == (
            frame,
            best["label"],
            best["score"],
        )
        secondary_of = (of_parquet["frame"], of_parquet["secondary_class_id"], of_parquet["secondary_label"])
        assert secondary_of == (frame, best["class_id"], best["label"])
        assert of_parquet["secondary_score"] == pytest.approx(best["score"], abs=1e-4)
    assert len(json.loads(files[".json"].read_text())["annotations"]) == len(jsonl)
    assert len(files[".txt"].read_text().splitlines()) == len(jsonl)
    assert len(media.decoded(files[".mp4"])) == FRAMES


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("alone", [True, False])
def test_an_interrupted_run_continues(tmp_path: Path, suffix: str, alone: bool) -> None:
    graph = str(color_graph(tmp_path / "color.onnx"))
    options: dict[str, Any] = {"model": graph} if alone else {"secondary": graph, "confidence": 0.3}
    run(settings(tmp_path, f"whole.{suffix}", **options), threading.Event())
    run(settings(tmp_path, f"cut.{suffix}", resume=True, **options), threading.Event())
    journal = tmp_path / f".cut.{suffix}.resume"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(line for line in lines if '"finished"' not in line) + "\n")
    whole = (tmp_path / f"cut.{suffix}").read_bytes()
    (tmp_path / f".cut.{suffix}.partial").write_bytes(whole[: len(whole) // 2])
    (tmp_path / f"cut.{suffix}").unlink()
    run(settings(tmp_path, f"cut.{suffix}", resume=True, **options), threading.Event())
    if suffix == "csv":
        assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
        return
    assert diff(str(tmp_path / "whole.jsonl"), str(tmp_path / "cut.jsonl"), DiffSettings(score_tolerance=0)).same
    assert [row["frame"] for row in rows(tmp_path / "cut.jsonl")] == list(range(FRAMES))


@pytest.mark.parametrize("task", ["classify", "embed"])
def test_descriptions_in_python(tmp_path: Path, task: Literal["classify", "embed"]) -> None:
    graph = color_graph(tmp_path / "color.onnx", task)
    pipeline = Pipeline(Detector(device="cpu", confidence=0.3), secondary=graph, top=2, workers=2)
    found: list[Result] = list(pipeline.run(clip()))
    assert len(found) == FRAMES
    for result in found:
        theirs = result.detections.to_supervision()
        assert result.detections.descriptions is not None
        for number, reported in enumerate(result.detections.descriptions):
            assert reported is not None
            if task == "classify":
                assert reported.classes is not None
                assert len(reported.classes) == 2
                assert theirs.data["secondary_label"][number] == reported.classes[0].label
            else:
                assert reported.embedding is not None
                assert np.array_equal(np.asarray(theirs.data["embedding"])[number], reported.embedding)
    assert sum(len(result.detections) for result in found) >= FRAMES
