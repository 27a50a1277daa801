"""A secondary model processes each detection; classifiers and embedders alone use the same path."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.graphs import color_graph
from tests.pipeline.fakes import EchoEngine, FakeSink, FakeSource, add, finish, make_lane
from tests.support import media
from tests.support.result_schema import validate_row
from vision_infer.analyze.select import Selector
from vision_infer.config.run import RunSettings, run_settings
from vision_infer.core.card import InputSize, ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.buffers import BufferPool
from vision_infer.engine.engine import Loan, RawResults, Ticket
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.stream.source import SourceSpec

FRAMES = 12
BOXES = 20


class NumberEngine:
    """Reports the first pixel of each image as its class, and keeps its batches."""

    name = "number-cpu-none"
    input_size = Size(4, 4)
    card = ModelCard(name="number", task="classify", input=InputSize(width=4, height=4), fit="stretch")

    def __init__(self, largest: int = BOXES, in_flight: int = 1, fails: bool = False) -> None:
        self.batch_sizes = tuple(range(1, largest + 1))
        self.in_flight = in_flight
        self.batches: list[int] = []
        self._fails = fails
        self._pool = BufferPool(self.input_size, self.batch_sizes, in_flight, {})

    @property
    def buffer_bytes(self) -> int:
        return self._pool.nbytes

    def lend(self, count: int) -> Loan:
        return self._pool.lend(count)

    def release(self, loan: Loan) -> None:
        self._pool.release(loan)

    def submit(self, loan: Loan) -> Ticket:
        self.batches.append(len(loan.slots))
        firsts = [int(slot.pixels[0, 0, 0]) for slot in loan.slots]
        if self._fails:
            self._pool.release(loan)
            raise RuntimeError("it is broken")
        return Ticket(loan, firsts)

    def collect(self, ticket: Ticket) -> RawResults:
        self._pool.release(ticket.loan)
        scores = np.zeros((len(ticket.state), 256), np.float32)
        scores[np.arange(len(ticket.state)), ticket.state] = 1
        return RawResults({"scores": scores}, 1, 2)

    def warm_up(self) -> None: ...

    def __enter__(self) -> NumberEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def many_boxes(outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every image has this number of boxes, each of another size."""
    count = len(outputs["boxes"])
    boxes = np.array([[number, number, 100 + number, 120 + number] for number in range(BOXES)], np.float32)
    scores = np.linspace(0.9, 0.5, BOXES, dtype=np.float32)
    return {
        "boxes": np.tile(boxes, (count, 1, 1)),
        "scores": np.tile(scores, (count, 1)),
        "class_ids": np.tile(np.arange(BOXES, dtype=np.int32), (count, 1)),
    }


def two_models(secondary_engine: NumberEngine, sources: list[FakeSource], shared: FakeSink, **options: Any) -> Supervisor:
    """A supervisor with both lanes, all sources added."""
    by_name = {source.name: source for source in sources}

    def open_stream(spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> FakeSource:
        return by_name[spec.name]

    first = EchoEngine(2, (1, 2), outputs=many_boxes)
    secondary = Lane("secondary", secondary_engine, Selector(confidence=0, iou=None), top=1)
    supervisor = Supervisor([make_lane(first), secondary], [shared], open_stream=open_stream, **options)
    for source in sources:
        supervisor.add(add(source, secondary="secondary"))
    return supervisor


def test_the_crops_of_a_frame_are_one_batch_and_return_to_their_detections() -> None:
    secondary_engine, shared = NumberEngine(), FakeSink()
    finish(two_models(secondary_engine, [FakeSource(0, FRAMES)], shared))
    assert secondary_engine.batches == [BOXES] * FRAMES
    for index, (_, number, result) in enumerate(shared.written):
        assert number == index
        assert result is not None
        assert result.detections.descriptions is not None
        # The crops of an image of one color have this color: the number of its frame.
        reported = [one.classes[0].class_id for one in result.detections.descriptions if one is not None and one.classes]
        assert reported == [number] * BOXES
        assert result.latency.secondary_ns > 0
        validate_row(json.loads(result.to_json()))


@pytest.mark.parametrize("in_flight", [1, 3])
def test_streams_share_batches_of_crops_and_keep_their_order(in_flight: int) -> None:
    secondary_engine, shared = NumberEngine(32, in_flight), FakeSink()
    sources = [FakeSource(number, 40) for number in range(3)]
    finish(two_models(secondary_engine, sources, shared))
    for source in sources:
        assert shared.indices(source.name) == list(range(40))
    assert sum(secondary_engine.batches) == 3 * 40 * BOXES
    assert len(secondary_engine.batches) < 3 * 40 * BOXES / 8


def test_a_live_stream_with_a_secondary_model_accounts_for_every_frame() -> None:
    secondary_engine, shared = NumberEngine(), FakeSink()
    supervisor = two_models(secondary_engine, [FakeSource(0, 300, live=True)], shared)
    finish(supervisor)
    (record,) = supervisor.records()
    assert record.decoded == record.results + sum(record.dropped.values()) == 300
    assert shared.indices() == sorted(set(shared.indices()))


def test_a_failure_of_the_secondary_model_costs_no_detection() -> None:
    shared = FakeSink()
    supervisor = two_models(NumberEngine(fails=True), [FakeSource(0, FRAMES)], shared, keep_going=True)
    finish(supervisor)
    assert shared.indices() == list(range(FRAMES))
    for _, _, result in shared.written:
        assert result is not None
        assert result.detections.descriptions == (None,) * BOXES
    (lane,) = [status for status in supervisor.lane_statuses() if status.name == "secondary"]
    assert lane.failures > 0


def test_without_keep_going_it_ends_the_run() -> None:
    supervisor = two_models(NumberEngine(fails=True), [FakeSource(0, FRAMES)], FakeSink())
    assert supervisor.wait(30)
    supervisor.close()
    assert "broken" in str(supervisor.error)


def settings(tmp_path: Path, **options: Any) -> RunSettings:
    clip = media.excerpt(100, FRAMES, 640, 272)
    return run_settings(sources=(str(clip),), device="cpu", workers=2, out=(str(tmp_path / "rows.jsonl"),), **options)


def rows_of(tmp_path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        validate_row(row)
    return rows


def test_a_run_with_a_secondary_model_on_a_real_clip(tmp_path: Path) -> None:
    run(settings(tmp_path, secondary=str(color_graph(tmp_path / "color.onnx")), confidence=0.3), threading.Event())
    frames = media.decoded(media.excerpt(100, FRAMES, 640, 272))
    found = 0
    for row in rows_of(tmp_path):
        rgb = frames[row["frame"]].to_ndarray(format="rgb24")
        for detection in row["detections"]:
            x1, y1, x2, y2 = detection["box"]
            crop = rgb[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))].reshape(-1, 3).mean(axis=0)
            reported = {one["label"]: one["score"] for one in detection["classes"]}
            share = crop / crop.sum()
            assert [reported["red"], reported["green"], reported["blue"]] == pytest.approx(share.tolist(), abs=0.03)
            found += 1
        assert row["latency_ms"]["total"] == pytest.approx(
            sum(value for name, value in row["latency_ms"].items() if name != "total"), abs=0.01
        )
    assert found >= FRAMES


@pytest.mark.parametrize("task", ["classify", "embed"])
def test_a_run_with_a_classifier_or_embedder_alone(tmp_path: Path, task: Literal["classify", "embed"]) -> None:
    run(settings(tmp_path, model=str(color_graph(tmp_path / "color.onnx", task)), top=2), threading.Event())
    rows = rows_of(tmp_path)
    assert len(rows) == FRAMES
    for row in rows:
        assert row["detections"] == []
        if task == "classify":
            assert len(row["classes"]) == 2
            assert row["classes"][0]["score"] >= row["classes"][1]["score"]
        else:
            values = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
            assert np.linalg.norm(values) == pytest.approx(1, abs=1e-5)


def test_a_detector_is_refused_as_secondary_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="detect"):
        run(settings(tmp_path, secondary="nanodet-416"), threading.Event())
