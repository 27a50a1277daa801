"""The row of a result matches the schema for any names; its times add up."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.core.result import RESULT_SCHEMA, Result
from vision_infer.core.trace import STAGES, Latency, Trace

ANY_CHARACTER = st.characters(codec=None, categories=None)
NAMES = st.one_of(
    st.text(ANY_CHARACTER, min_size=1, max_size=12), st.sampled_from(['a"b', "a\\b", "a\nb", "%s", "{}", "é—字", "\udcff"])
)
WORDS = NAMES
EDGES = st.floats(-1e5, 1e5, width=32)
DURATIONS = st.integers(0, 10**13)


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 4))
    tracked = draw(st.booleans())
    names = draw(st.none() | st.lists(WORDS, max_size=3).map(tuple))

    def numbers(most: int) -> list[int]:
        return draw(st.lists(st.integers(0, most), min_size=count, max_size=count))

    boxes = draw(st.lists(st.tuples(EDGES, EDGES, EDGES, EDGES), min_size=count, max_size=count))
    scores = draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count))
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4),
        np.array(scores, np.float32),
        np.array(numbers(100), np.int32),
        names,
        np.array(numbers(10**6), np.int32) if tracked else None,
    )


RESULTS = st.builds(
    Result,
    stream=NAMES,
    frame=st.integers(0, 2**40),
    pts_s=st.none() | st.floats(-1e9, 1e9),
    size=st.builds(Size, st.integers(1, 8192), st.integers(1, 8192)),
    model=NAMES,
    engine=NAMES,
    detections=detections(),
    latency=st.builds(Latency, DURATIONS, DURATIONS, DURATIONS, DURATIONS, DURATIONS, DURATIONS),
    file=st.none() | NAMES,
    gated=st.booleans(),
)
VALIDATOR = Draft202012Validator(RESULT_SCHEMA)


def no_constant(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


@settings(deadline=None)
@given(RESULTS)
def test_a_row_matches_the_schema_and_the_result(result: Result) -> None:
    text = result.to_json()
    assert "\n" not in text
    assert "\r" not in text
    text.encode("utf-8")
    row = json.loads(text, parse_constant=no_constant)
    VALIDATOR.validate(row)

    found = result.detections
    assert (row["stream"], row["frame"], row["model"], row["engine"]) == (
        result.stream,
        result.frame,
        result.model,
        result.engine,
    )
    assert row.get("file") == result.file
    assert row.get("gated", False) is result.gated
    assert (row["width"], row["height"]) == (result.size.width, result.size.height)
    assert row["pts_s"] == (None if result.pts_s is None else pytest.approx(result.pts_s, abs=1e-6))
    assert [one["label"] for one in row["detections"]] == found.labels
    assert [one["class_id"] for one in row["detections"]] == found.class_ids.tolist()
    for one, box, score in zip(row["detections"], found.boxes.tolist(), found.scores.tolist(), strict=True):
        assert one["box"] == pytest.approx(box, abs=0.00501)
        assert one["score"] == pytest.approx(score, abs=0.0000501)
    tracks = [0] * len(found) if found.track_ids is None else found.track_ids.tolist()
    assert [one.get("track_id", 0) for one in row["detections"]] == tracks
    assert row["latency_ms"]["total"] == pytest.approx(result.latency.total_ns / 1e6, abs=0.000501)


def test_a_row_as_documented() -> None:
    found = Detections(
        np.array([[10.004, 20, 30.5, 40]], np.float32),
        np.array([0.91], np.float32),
        np.zeros(1, np.int32),
        ("person",),
        np.array([3], np.int32),
    )
    latency = Latency(1_000_000, 2_000_000, 300_000, 4_000_000, 50_000, 7_350_000)
    result = Result("door", 7, 0.28, Size(640, 480), "nanodet-416", "onnxruntime-cpu-fp32", found, latency)
    assert result.to_json() == (
        '{"stream": "door", "frame": 7, "pts_s": 0.28, "width": 640, "height": 480, "model": "nanodet-416", '
        '"engine": "onnxruntime-cpu-fp32", "detections": [{"class_id": 0, "label": "person", "score": 0.9100, '
        '"box": [10.00, 20.00, 30.50, 40.00], "track_id": 3}], "latency_ms": {"decode": 1.000, "queue": 2.000, '
        '"preprocess": 0.300, "inference": 4.000, "postprocess": 0.050, "total": 7.350}}'
    )


def test_a_file_name_that_is_not_valid_text_can_be_written() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    result = Result("s", 0, None, Size(1, 1), "m", "e", Detections.empty(), Latency(0, 0, 0, 0, 0, 0), name)
    assert os.fsencode(json.loads(result.to_json().encode("utf-8"))["file"]) == b"caf\xe9.jpg"


def test_the_schema_is_valid_and_refuses_unknown_fields() -> None:
    Draft202012Validator.check_schema(RESULT_SCHEMA)
    result = Result("s", 0, None, Size(1, 1), "m", "e", Detections.empty(), Latency(0, 0, 0, 0, 0, 0))
    row = json.loads(result.to_json())
    assert VALIDATOR.is_valid(row)
    assert not VALIDATOR.is_valid(row | {"more": 1})
    for name in row:
        assert not VALIDATOR.is_valid({key: value for key, value in row.items() if key != name})
    assert list(row["latency_ms"]) == [*STAGES[:-1], "total"]


@given(st.lists(st.integers(0, 10**12), min_size=10, max_size=10))
def test_the_stages_add_up_to_the_total(steps_ns: list[int]) -> None:
    times = list(accumulate(steps_ns))
    trace = Trace()
    for stage, time_ns in zip(fields(Trace), times, strict=False):
        setattr(trace, stage.name, time_ns)
    spent = trace.latency()
    parts = (spent.decode_ns, spent.queue_ns, spent.preprocess_ns, spent.inference_ns, spent.postprocess_ns)
    assert sum(parts) == spent.total_ns == times[-1] - times[0]
    assert min(parts) >= 0
    assert spent.queue_ns == steps_ns[2] + steps_ns[4] + steps_ns[6] + steps_ns[8], "exactly the gaps between the stages"
