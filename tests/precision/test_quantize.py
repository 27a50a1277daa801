"""``model quantize`` from end to end on a small model: written files, refusals, and no partial files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.precision.tiny import CARD, SIDE, noise_frames, tiny_model, write_tiny
from tests.support import media
from vision_infer.core.card import InputSize
from vision_infer.core.errors import ModelError, StreamError, UsageError
from vision_infer.engine.graph_facts import read_graph_facts, variants
from vision_infer.engine.measure import measure_speed
from vision_infer.engine.store.engine_key import graph_sha256
from vision_infer.engine.store.passport import passport_file, passports_beside
from vision_infer.precision import target as target_module
from vision_infer.precision.frames import FrameNeeds
from vision_infer.precision.quantization import quantize as quantize_module
from vision_infer.precision.quantization.quantize import QuantizeRequest, quantize_model, quantize_sizes
from vision_infer.precision.quantization.ranges import METHODS
from vision_infer.precision.target import ConversionTarget, choose_target, converting, write_target
from vision_infer.precision.verification import engine_check

pytest.importorskip("onnxruntime")

NEEDS = FrameNeeds(20, 30, 110)
BUDGET = 20.0
"""The points that may be lost: without VNNI, weights have 7 bits, and the small model loses up to 17."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    for number, image in enumerate(noise_frames(170, seed=4)):
        media.write_jpeg(folder / f"{number:03}.jpg", image)
    return folder


@pytest.fixture(autouse=True)
def timed_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the speed measurements, whose results are not used."""
    monkeypatch.setattr(engine_check, "measure_speed", partial(measure_speed, rounds=3, round_s=0.01))


@pytest.fixture
def request_for(data: Path, tmp_path: Path) -> QuantizeRequest:
    write_tiny(tmp_path / "models")
    return QuantizeRequest("tiny", (str(data),), budget=BUDGET, model_dir=tmp_path / "models", needs=NEEDS)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_int8_is_written_next_to_its_model_with_passports(request_for: QuantizeRequest, tmp_path: Path) -> None:
    told: list[str] = []
    report = quantize_model(request_for, told.append)
    folder = tmp_path / "models" / "tiny"
    assert report.path == folder / "model.int8.onnx"
    assert variants(folder / "model.onnx") == [report.path]
    facts = read_graph_facts(report.path)
    assert (facts.precision, facts.card) == ("int8", CARD.model_copy(update={"precision": "int8"}))
    passports = [one for one in passports_beside(report.path) if one.engine == "onnxruntime-cpu-int8"]
    (passport,) = passports
    assert passport.sources.graph == graph_sha256(report.path)
    assert passport.tools["fp32"] == graph_sha256(folder / "model.onnx")
    (accuracy,) = passport.accuracy
    assert (accuracy.frames, accuracy.judged) == (110, "proven")
    assert accuracy.low <= accuracy.value <= accuracy.high <= BUDGET
    assert accuracy.data.endswith("/pictures")
    assert passport.speed[0].fp32_ratio is not None
    assert passport.device.instructions
    assert passport.memory_bytes is not None
    assert 1_000_000 < passport.memory_bytes < 1_000_000_000
    assert passport.precision["calibration"] in METHODS
    assert not report.accepted
    assert any("for calibration" in line for line in told)
    json.dumps(report.to_dict())
    with pytest.raises(ModelError, match="already"):
        quantize_model(request_for)


def test_fp16_and_the_tensorrt_form_have_separate_files(request_for: QuantizeRequest, tmp_path: Path) -> None:
    half = quantize_model(replace(request_for, precision="fp16"))
    assert half.path.name == "model.fp16.onnx"
    assert read_graph_facts(half.path).precision == "fp16"
    assert half.engines[0].agreement.figures["top1_agreement"] >= 99
    other = quantize_model(replace(request_for, form="tensorrt", accept_loss=True))
    assert other.path.name == "model.int8-tensorrt.onnx"


def test_a_new_name_gives_a_new_model(request_for: QuantizeRequest, tmp_path: Path) -> None:
    report = quantize_model(replace(request_for, name="tiny-small"))
    folder = tmp_path / "models" / "tiny-small"
    assert report.path == folder / "model.onnx"
    assert read_graph_facts(report.path).card.name == "tiny-small"
    assert "name: tiny-small" in (folder / "model.yaml").read_text()
    assert "precision: int8" in (folder / "model.yaml").read_text()
    assert listing(tmp_path / "models") == ["tiny", "tiny-small"]


@pytest.fixture
def two_sizes(request_for: QuantizeRequest, tmp_path: Path) -> QuantizeRequest:
    """A model with a second graph, half as wide."""
    small = CARD.model_copy(update={"input": InputSize(width=SIDE // 2, height=SIDE)})
    onnx.save(tiny_model(card=small), tmp_path / "models" / "tiny" / f"model-{SIDE}x{SIDE // 2}.onnx")
    return request_for


def test_each_input_size_is_converted(two_sizes: QuantizeRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[QuantizeRequest] = []
    monkeypatch.setattr(quantize_module, "quantize_model", lambda request, *_: asked.append(request))
    said: list[str] = []
    folder = tmp_path / "models" / "tiny"
    list(quantize_sizes(replace(two_sizes, pictures=tmp_path / "seen"), said.append))
    assert said == ["model.onnx: 32x32 (width x height)", "model-32x16.onnx: 16x32 (width x height)"]
    assert [(one.model, one.pictures) for one in asked] == [
        (str(folder / "model.onnx"), tmp_path / "seen"),
        (str(folder / "model-32x16.onnx"), tmp_path / "seen" / "32x16"),
    ]
    for alone in (replace(two_sizes, name="other"), replace(two_sizes, model=str(folder / "model-32x16.onnx"))):
        asked.clear()
        list(quantize_sizes(alone))
        assert asked == [alone]


@pytest.mark.slow  # two conversions, each like those below
def test_each_input_size_is_verified(two_sizes: QuantizeRequest) -> None:
    reports = list(quantize_sizes(two_sizes))
    assert [report.path.name for report in reports] == ["model.int8.onnx", "model-32x16.int8.onnx"]
    for report in reports:
        assert {one.card.width for one in passports_beside(report.path)} == {read_graph_facts(report.path).card.input.width}


@pytest.mark.slow
def test_a_loss_beyond_the_budget_is_refused_with_the_gain(request_for: QuantizeRequest, tmp_path: Path) -> None:
    before = listing(tmp_path / "models" / "tiny")
    strict = replace(request_for, form="tensorrt", budget=0.0)
    with pytest.raises(
        ModelError, match=r"is refused: .* points lost .* the budget is 0; it would be .* times as fast as FP32"
    ) as caught:
        quantize_model(strict)
    assert "--accept-loss" in caught.value.hint
    assert listing(tmp_path / "models" / "tiny") == before
    asked: list[str] = []
    answers = iter((False, True))

    def ask(refusal: str) -> bool:
        asked.append(refusal)
        return next(answers)

    with pytest.raises(ModelError, match="is refused"):
        quantize_model(replace(strict, ask=ask))
    for accepting in (replace(strict, ask=ask), replace(strict, accept_loss=True, overwrite=True)):
        report = quantize_model(accepting)
        assert "the budget is 0" in report.accepted
        assert {one.engine: one.accepted for one in report.passports} == {
            one.engine: one.engine == report.best.engine for one in report.passports
        }
        assert report.best.agreement.lost.high == min(one.agreement.lost.high for one in report.engines)
    assert len(asked) == 2
    assert "the budget is 0" in asked[0]


def test_too_few_evaluation_frames_are_refused(request_for: QuantizeRequest, data: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(data.iterdir())[:60]:
        (few / path.name).write_bytes(path.read_bytes())
    told: list[str] = []
    with pytest.raises(StreamError, match=r"\d+ evaluation frames are too few; at least 100 are needed") as caught:
        quantize_model(replace(request_for, data=(str(few),), budget=100.0), told.append)
    assert "160 frames are best" in caught.value.hint
    assert not [line for line in told if line.startswith("calibration")], "the calibration has begun"
    for path in sorted(few.iterdir())[20:]:
        path.unlink()
    with pytest.raises(StreamError, match="at least 30 are needed"):
        quantize_model(replace(request_for, data=(str(few),)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": ()}, "--data is missing"),
        ({"form": "gpu"}, "--form gpu"),
        ({"precision": "int4"}, "--precision int4"),
        ({"budget": -1.0}, "--budget -1"),
    ],
)
def test_invalid_options_are_refused(request_for: QuantizeRequest, change: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        quantize_model(replace(request_for, **change))


def test_a_model_that_is_not_in_fp32(request_for: QuantizeRequest) -> None:
    path = quantize_model(replace(request_for, precision="fp16")).path
    with pytest.raises(ModelError, match="is already in fp16"):
        quantize_model(replace(request_for, model=str(path)))


def test_a_model_that_gives_nan_is_refused(request_for: QuantizeRequest, tmp_path: Path) -> None:
    path = tmp_path / "models" / "tiny" / "model.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "network/w3":
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.nan), tensor.name))
    onnx.save(model, path)
    before = listing(path.parent)
    with pytest.raises(ModelError, match="not finite"):
        quantize_model(request_for)
    assert listing(path.parent) == before


def test_a_search_that_reached_its_time_limit_reports_it(request_for: QuantizeRequest) -> None:
    with pytest.raises(ModelError, match="is refused") as caught:
        quantize_model(replace(request_for, form="tensorrt", budget=0.0, time_limit_s=0.0))
    assert "--time-limit" in caught.value.hint


def test_an_incomplete_graph_is_refused(request_for: QuantizeRequest, tmp_path: Path) -> None:
    path = tmp_path / "models" / "tiny" / "model.onnx"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelError, match="not an ONNX file"):
        quantize_model(request_for)


def test_a_full_disk_leaves_no_files(request_for: QuantizeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listing(tmp_path / "models" / "tiny")
    plain = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if ".quantizing-" in str(path):
            plain(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelError, match="No space left"):
        quantize_model(replace(request_for, accept_loss=True))
    assert listing(tmp_path / "models" / "tiny") == before
    assert listing(tmp_path / "models") == ["tiny"]


def test_a_second_conversion_of_the_same_graph_is_refused(request_for: QuantizeRequest, tmp_path: Path) -> None:
    refused: list[str] = []

    def on_message(line: str) -> None:
        if "calibration" in line and not refused:
            for other in (request_for, replace(request_for, precision="fp16", name="other")):
                with pytest.raises(ModelError, match=r"model\.onnx: another process is converting it\. Wait until") as caught:
                    quantize_model(other)
                refused.append(str(caught.value))

    graph = quantize_model(request_for, on_message).path
    assert len(refused) == 2
    passports = passports_beside(graph)
    assert {one.sources.graph for one in passports} == {graph_sha256(graph)}
    whole = {graph.name, "model.onnx", "model.yaml", *(passport_file(graph, one.engine).name for one in passports)}
    assert set(listing(tmp_path / "models" / "tiny")) == whole
    assert listing(tmp_path / "models") == ["tiny"]


def test_a_killed_conversion_leaves_no_files_and_no_lock(data: Path, request_for: QuantizeRequest, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "vision_infer", "model", "quantize", "tiny", "--data", str(data), "--budget", "50"]
    running = subprocess.Popen(
        [*words, "--model-dir", str(tmp_path / "models")], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "calibration" in line:
            break
    with pytest.raises(ModelError, match="another process is converting it"):
        quantize_model(request_for)
    running.send_signal(signal.SIGKILL)
    running.wait(60)
    running.stderr.close()
    assert listing(tmp_path / "models" / "tiny") == ["model.onnx", "model.yaml"]
    assert variants(tmp_path / "models" / "tiny" / "model.onnx") == []
    with converting(tmp_path / "models" / "tiny" / "model.onnx"):
        pass


def test_a_later_conversion_removes_abandoned_folders(tmp_path: Path) -> None:
    left = tmp_path / "m" / ".quantizing-x"
    (left / "m").mkdir(parents=True)
    young = tmp_path / "m" / ".quantizing-y"
    young.mkdir()
    os.utime(left, (time.time() - 200_000,) * 2)
    write_target(ConversionTarget(tmp_path / "m", "model.int8.onnx", "m"), {"model.int8.onnx": b"graph"})
    assert listing(tmp_path / "m") == [".quantizing-y", "model.int8.onnx"]


def test_passports_of_a_replaced_graph_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("model.onnx", "model.onnxruntime-cpu-fp32.passport.json", "model.int8.openvino-cpu-int8.passport.json"):
        (folder / name).write_text("x")
    files: dict[str, bytes | str] = {"model.int8.onnx": b"graph", "model.int8.onnxruntime-cpu-int8.passport.json": "{}"}
    write_target(ConversionTarget(folder, "model.int8.onnx", "m"), files)
    kept = ["model.int8.onnx", "model.int8.onnxruntime-cpu-int8.passport.json", "model.onnx"]
    assert listing(folder) == [*kept, "model.onnxruntime-cpu-fp32.passport.json"]


def test_the_bundled_model_is_copied_and_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = write_tiny(tmp_path / "package")
    for other in ("model-16x32.onnx", "model.int8.onnx", "model.openvino-cpu-int8.passport.json", "README.md", "LICENSE"):
        bundled.with_name(other).write_text(other)
    monkeypatch.setattr(target_module, "bundled_dir", lambda: tmp_path / "package")
    target = choose_target(bundled, "tiny", "int8", None, tmp_path / "mine", overwrite=False)
    write_target(target, {target.graph: b"graph"})
    mine = ["LICENSE", "model-16x32.onnx", "model.int8.onnx", "model.onnx", "model.yaml"]
    assert listing(tmp_path / "mine" / "tiny") == mine  # every input size, and of other precisions the new one alone
    assert (tmp_path / "mine" / "tiny" / "model.int8.onnx").read_bytes() == b"graph"
    assert bundled.with_name("model.int8.onnx").read_text() == "model.int8.onnx"
    again = choose_target(bundled, "tiny", "fp16", None, tmp_path / "mine", overwrite=False)
    assert again.copied == ()


def test_an_invalid_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model name"):
        choose_target(tmp_path / "model.onnx", "tiny", "int8", "../out", tmp_path, overwrite=False)


def test_another_judge_can_be_used(request_for: QuantizeRequest) -> None:
    asked: list[Path] = []

    def judge(fp32: Path) -> tuple[Any, str]:
        asked.append(fp32)
        return (lambda engine: good), "annotations"

    good = quantize_model(request_for).engines[0].agreement
    report = quantize_model(replace(request_for, judge=judge, overwrite=True))
    assert asked == [request_for.model_dir / "tiny" / "model.onnx"]  # type: ignore[operator]
    assert report.passports[0].accuracy[0].data == "annotations"
