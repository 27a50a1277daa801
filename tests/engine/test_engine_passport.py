"""Passports: reading, atomic writing, and their evaluation."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.store.passport import (
    DeviceFacts,
    MeasuredAccuracy,
    MeasuredSpeed,
    Passport,
    Sources,
    parse_passport,
    passport_file,
    passports_beside,
    read_passport,
    summarize,
)

DEVICE = DeviceFacts(name="A Processor", instructions=("avx2", "avx512_vnni"), cores=2)


def accuracy(high: float, judged: str = "proven") -> MeasuredAccuracy:
    fields = {"metric": "agreement with FP32", "value": high / 2, "low": 0, "high": high, "data": "x", "frames": 200}
    return MeasuredAccuracy.model_validate({**fields, "judged": judged})


def speed(fps: float, workers: int = 2) -> MeasuredSpeed:
    return MeasuredSpeed(batch=1, workers=workers, threads=1, p50_ms=9, p95_ms=11, fps=fps, fps_low=fps, fps_high=fps)


@pytest.fixture
def passport(card: ModelCard) -> Passport:
    return Passport(
        engine="onnxruntime-cpu-int8",
        card=summarize(card),
        sources=Sources(graph="a" * 64),
        runtime="onnxruntime",
        runtime_version="1.32.0",
        tools={"numpy": "2.4"},
        device=DEVICE,
        precision={"convolutions": "int8", "box decoding": "fp32"},
        accuracy=(accuracy(0.4), accuracy(0.7), accuracy(3.0, "not proven")),
        speed=(speed(60.0), speed(90.0, 1)),
        memory_bytes=50_000_000,
        build_seconds=1.5,
        date=datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC),
    )


def test_a_written_passport_is_read_again(passport: Passport, tmp_path: Path) -> None:
    path = tmp_path / "x.passport.json"
    path.write_text(passport.to_json(), encoding="utf-8")
    assert read_passport(path) == passport
    schema = Passport.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text()), schema)


def test_the_accuracy_and_speed_that_decide(passport: Passport) -> None:
    loss, fastest = passport.loss(), passport.fastest()
    assert loss is not None
    assert fastest is not None
    assert (loss.high, fastest.fps) == (0.7, 90.0)
    empty = passport.model_copy(update={"accuracy": (accuracy(0.1, "not proven"),), "speed": ()})
    assert empty.loss() is None
    assert empty.fastest() is None


def test_where_a_passport_is_valid(passport: Passport) -> None:
    another = DEVICE.model_copy(update={"cores": 8, "name": "Another"})
    assert passport.holds_for("a" * 64, another)
    assert not passport.holds_for("b" * 64, DEVICE)
    assert passport.measured_here(DEVICE.model_copy(update={"cores": 8}), "1.32.0")
    assert not passport.measured_here(another, "1.32.0")
    assert not passport.measured_here(DEVICE, "1.33.0")


@pytest.mark.parametrize(
    ("engine", "instructions", "alike"),
    [
        ("onnxruntime-cpu-int8", ("avx2", "avx_vnni"), True),
        ("onnxruntime-cpu-int8", ("avx2", "avx512f", "amx_int8"), True),
        ("onnxruntime-cpu-int8", ("avx2", "avx512_vnni", "avx512_bf16", "avx512_fp16"), True),  # not for INT8
        ("onnxruntime-cpu-int8", ("avx2",), False),
        ("onnxruntime-cpu-int8", ("asimd", "asimddp"), False),
        ("openvino-cpu-bf16", ("avx2", "avx512_bf16"), False),
        ("openvino-cpu-bf16", ("avx2",), True),
        ("openvino-cpu-fp16", ("avx2", "avx512_fp16"), False),
        ("openvino-cpu-fp32", ("avx2", "avx512_bf16", "avx512_fp16"), True),
        ("openvino-cpu-fp32", ("asimd",), False),
    ],
)
def test_devices_that_compute_alike(passport: Passport, engine: str, instructions: tuple[str, ...], alike: bool) -> None:
    one = passport.model_copy(update={"engine": engine})
    assert one.holds_for("a" * 64, DEVICE.model_copy(update={"instructions": instructions})) == alike


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 2}, "format"),
        ({"engine": "fast"}, "engine"),
        ({"date": "2026-11-24T00:00:00"}, "date"),
        ({"more": 1}, "more"),
        ({"memory_bytes": -1}, "memory_bytes"),
        ({"speed": [{"batch": 0}]}, "speed.0"),
    ],
)
def test_an_error_names_the_wrong_field(passport: Passport, tmp_path: Path, change: dict[str, object], word: str) -> None:
    path = tmp_path / "x.passport.json"
    path.write_text(json.dumps({**json.loads(passport.to_json()), **change}))
    with pytest.raises(EngineError) as caught:
        read_passport(path)
    assert str(path) in caught.value.message
    assert f"'{word}" in caught.value.message


def test_infinite_values_are_refused() -> None:
    with pytest.raises(ValidationError):
        accuracy(float("nan"))
    with pytest.raises(ValidationError):
        speed(float("inf"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", None])
def test_files_that_are_not_passports(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.passport.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match="passport"):
        read_passport(path)
    with pytest.raises(EngineError, match="here"):
        parse_passport("{}", "here")


def test_passports_are_next_to_their_graph(passport: Passport, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    path = passport_file(graph, passport.engine)
    assert path.name == "model.onnxruntime-cpu-int8.passport.json"
    assert passports_beside(graph) == []
    path.write_text(passport.to_json(), encoding="utf-8")
    (tmp_path / "model.broken.passport.json").write_text("{")
    (tmp_path / "other.x.passport.json").write_text("{")
    assert passports_beside(graph) == [passport]
