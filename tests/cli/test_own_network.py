"""The steps of the README with a third-party model, from its ONNX file to the engine that ``run`` selects."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.precision.tiny import noise_frames
from tests.support import media
from tests.support import raw_networks as raw
from tests.support.assets import raw_model
from vision_infer.core.geometry import Size
from vision_infer.engine.measure import measure_speed
from vision_infer.precision.verification import engine_check

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


def rows_of(command: Command, source: str | Path, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the results of ``run`` with the model ``mine``, and its output."""
    done = command("run", source, "--model", "mine", "--out", "rows.jsonl")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()], done.stderr


def test_a_classifier_from_import_to_run(in_process: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_check, "measure_speed", partial(measure_speed, rounds=3, round_s=0.05))
    raw.vector(tmp_path / "mine.onnx", name="logits", size=Size(64, 64))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, image in enumerate(noise_frames(190, seed=6)):
        media.write_jpeg(pictures / f"{number:03}.jpg", image)
    done = in_process("model", "import", "mine.onnx", "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert "vision-infer run VIDEO --model mine" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("to use ONNX Runtime or OpenVINO, whichever is faster here")
    assert last.endswith("run: vision-infer engine choose mine")
    few = in_process("model", "quantize", "mine", "--data", pictures / "000.jpg")
    assert (few.returncode, few.stdout) == (1, "")
    assert "usable frames, but at least 30 are needed. Add more or longer videos" in few.stderr
    done = in_process("model", "quantize", "mine", "--precision", "int8", "--data", pictures, "--budget", "20")
    assert done.returncode == 0, done.stderr
    assert "run it with: vision-infer run VIDEO --model mine" in done.stdout
    listed = in_process("engine", "list", "mine", "--budget", "20").stdout
    assert re.search(r"onnxruntime-cpu-int8 +\d+\.\d\d +\S+ +\S+ +-?\d+\.\d\d +(not )?selected: ", listed)
    shown = in_process("engine", "show", "mine", "onnxruntime-cpu-int8").stdout
    assert shown.count("onnxruntime-cpu-int8 of mine") == 1
    assert ": proven" in shown
    assert len(re.findall(r"^\* \S+-cpu-\S+ .*selected: ", listed, re.M)) == 1
    assert "With a budget of 20 points. 'run' and 'serve' use 1 point" in listed
    named = in_process("run", pictures / "000.jpg", "--model", "mine", "--engine", "onnxruntime-cpu-int8", "--json")
    assert json.loads(named.stdout)["engine"] == "onnxruntime-cpu-int8", named.stderr
    rows, _ = rows_of(in_process, pictures / "001.jpg", tmp_path)
    assert rows[0]["model"] == "mine"
    assert rows[0]["classes"]


@pytest.mark.slow  # INT8 of a whole detector takes a minute, more on a busy machine
@pytest.mark.timeout(900)
def test_a_third_party_detector_from_import_to_run(in_process: Command, tmp_path: Path) -> None:
    shutil.copy(raw_model("nanodet"), tmp_path / "mine.onnx")
    videos = [media.bikes(), media.asset("videos/one-by-one-person-detection.mp4")]
    done = in_process("model", "import", "mine.onnx", "--name", "mine", "--labels", "coco")
    assert done.returncode == 0, done.stderr
    assert "head 'nanodet', because it has" in done.stdout
    assert "verified at 416x416 (width x height)" in done.stdout
    few = in_process("model", "quantize", "mine", "--data", videos[0])
    assert few.returncode == 1
    assert "evaluation frames are too few; at least 100 are needed" in few.stderr
    # No loss is within a budget of 0, on any CPU; the limit ends the search for layers, whose result depends on the CPU.
    words = ("model", "quantize", "mine", "--data", videos[0], "--data", videos[1], "--budget", "0", "--time-limit", "1")
    refused = in_process(*words)
    assert refused.returncode == 3
    assert "the budget is 0" in refused.stderr
    assert "accept the loss with --budget or --accept-loss" in refused.stderr
    done = in_process(*words, "--accept-loss")
    assert done.returncode == 0, done.stderr
    accepted = re.search(r"^(\S+-cpu-int8): loss accepted, so 'auto' may select it: .* the budget is 0", done.stdout, re.M)
    assert accepted, done.stdout
    assert ", loss accepted" in in_process("engine", "list", "mine").stdout
    assert "accepted   by the user" in in_process("engine", "show", "mine", accepted[1]).stdout
    rows, message = rows_of(in_process, videos[0], tmp_path)
    assert len(rows) == 250
    assert {row["engine"] for row in rows} <= {"onnxruntime-cpu-int8", "openvino-cpu-int8"}
    assert sum(len(row["detections"]) for row in rows) > 300
    taken = re.search(r"((?:onnxruntime|openvino)-cpu-int8): \S+× as fast as onnxruntime-cpu-fp32", message)
    assert taken, message
    assert taken[1] != accepted[1] or ", loss accepted" in message
