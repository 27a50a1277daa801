"""``vision-infer model`` and ``schema``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import yaml

from tests.cli.conftest import Command
from tests.support.assets import BOXES, IMAGES, coco_annotations, raw_model
from tests.support.media import ROOT, bikes
from vision_infer.cli.models import quantize as quantize_module


def test_list_and_show_the_bundled_model(in_process: Command) -> None:
    listed = json.loads(in_process("model", "list", "--json").stdout)
    found = [(entry["name"], entry["origin"], entry["error"]) for entry in listed]
    assert found == [("clock", "bundled", None), ("nanodet-416", "bundled", None)]
    assert listed[1]["input_sizes"] == [{"width": 416, "height": 416}, {"width": 416, "height": 256}]
    row = in_process("model", "list").stdout
    assert "nanodet-416  bundled  detect, 416x416 and 416x256, 80 labels" in row
    assert "22.9 on COCO val2017 (published for NanoDet-g, which this is by its structure; not measured here)" in row
    shown = yaml.safe_load(in_process("model", "show", "nanodet-416").stdout)
    inside = json.loads(in_process("model", "show", ROOT / "models" / "nanodet-416" / "model.onnx", "--json").stdout)
    assert shown["name"] == inside["name"] == "nanodet-416"
    assert shown["labels"] == inside["labels"]
    schema = json.loads(in_process("schema", "card").stdout)
    jsonschema.validate(inside, schema)


def test_all_input_sizes_of_a_model_are_listed(in_process: Command, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text("name: mine\ninput: {width: 640, height: 640}\nlabels: [person]\n")
    for name in ("model.onnx", "model-384x640.onnx", "model-736x1280.onnx"):  # height first
        (folder / name).touch()
    assert "mine  user  detect, 640x640 and 640x384 and 1280x736, 1 labels" in in_process("model", "list").stdout
    (mine,) = (one for one in json.loads(in_process("model", "list", "--json").stdout) if one["name"] == "mine")
    assert [(size["width"], size["height"]) for size in mine["input_sizes"]] == [(640, 640), (640, 384), (1280, 736)]


def test_import_a_model_and_run_it_by_name(command: Command, tmp_path: Path) -> None:
    network = raw_model("nanodet")
    done = command("model", "import", network, "--name", "mine", "--labels", "coco")
    assert (done.returncode, done.stderr) == (0, "")
    assert "head 'nanodet'" in done.stdout
    assert "vision-infer run VIDEO --model mine" in done.stdout
    again = command("model", "import", network, "--name", "mine")
    assert again.returncode == 3
    assert "--overwrite" in again.stderr
    ran = command("run", bikes(), "--model", "mine", "--every", "50", "--out", "rows.jsonl", "--quiet")
    assert (ran.returncode, ran.stderr) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == [0, 50, 100, 150, 200]
    assert {row["model"] for row in rows} == {"mine"}
    assert any(detection["label"] == "person" for row in rows for detection in row["detections"])


def test_import_options_are_checked(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("no network")
    for options, word in (
        (["--fit", "middle"], "center"),
        (["--color", "yuv"], "rgb"),
        (["--mean", "1,2"], "three numbers"),
        ([], "x.onnx"),
    ):
        done = in_process("model", "import", "x.onnx", "--name", "x", *options)
        assert done.returncode in (2, 3)
        assert done.stderr.count("\n") == 1
        assert word in done.stderr
    assert not (tmp_path / "home").exists()


def test_evaluate_prints_cocos_table(in_process: Command) -> None:
    data = coco_annotations()
    fp32 = ("--engine", "onnxruntime-cpu-fp32")
    done = in_process("model", "evaluate", "nanodet-416", *fp32, "--data", data, "--images", data.parent / "images")
    assert done.returncode == 0, done.stderr
    assert f"{IMAGES} images, {BOXES} boxes" in done.stdout
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.61" in done.stdout


def test_the_result_schema_is_a_schema(in_process: Command) -> None:
    schema = json.loads(in_process("schema", "result").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == "vision-infer result"


def test_quantize_asks_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def confirm(text: str, *, err: bool) -> bool:
        asked.append(text)
        return err

    monkeypatch.setattr("typer.confirm", confirm)
    terminal, pipe = (SimpleNamespace(isatty=lambda answer=answer: answer) for answer in (True, False))
    for stdin, stderr, expected in ((terminal, terminal, True), (pipe, terminal, False), (None, terminal, False)):
        monkeypatch.setattr(quantize_module, "sys", SimpleNamespace(stdin=stdin, stderr=stderr))
        assert quantize_module._ask("mine in int8 with an engine: 1.20 points lost, the budget is 1") is expected
    assert asked == ["mine in int8 with an engine: 1.20 points lost, the budget is 1. Accept this loss?"]
