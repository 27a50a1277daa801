"""The cost of streams and the spare capacity, also over the API."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.fakes import Api, FakeBackend, problem, status
from vision_infer.config.service.cost import CostSettings
from vision_infer.pipeline.status import LaneStatus, StreamStatus, Usage
from vision_infer.service.streams.admission import spare_capacity
from vision_infer.service.streams.cost import HEADROOM, MachineUsage, StreamCost, cost_of

MACHINE = MachineUsage(cores=4, used=2, others=0)


def stream(name: str, thread: float, convert: float, engine: float, fps: float = 10.0, lane: str = "main") -> StreamStatus:
    return status(name, usage=Usage(thread, convert, engine), result_fps=fps, lane=lane)


def lane(engine: str) -> LaneStatus:
    """Return a lane with up to two concurrent batches."""
    return replace(FakeBackend().lanes()[0], engine=engine, in_flight=2, utilization=0.5)


CPU, GPU = lane("openvino-cpu-int8"), lane("tensorrt-cuda0-fp16")


def test_shared_cpu_time_is_divided_by_conversion_and_inference_time() -> None:
    cost = cost_of([stream("a", 0.2, 0.1, 0.5), stream("b", 0.4, 0.0, 0.2)], [CPU], MACHINE)
    a, b = cost.streams
    assert (a.decode_cores, b.decode_cores) == (0.2, 0.4)
    assert a.shared_cores / b.shared_cores == pytest.approx(3)
    assert a.accelerator is None
    assert a.cpu_ms_per_result == pytest.approx(a.cores / 10 * 1000)


def test_the_tiles_of_a_stream_are_reported() -> None:
    tiled = replace(stream("a", 0.2, 0.1, 0.5), tiles=6)
    (one,) = cost_of([tiled], [CPU], MACHINE).streams
    assert one.tiles == 6
    at_twice = one.at(20, MACHINE)
    assert at_twice is not None
    assert at_twice.tiles == 6


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3, st.floats(0, 100)), min_size=1, max_size=8), st.floats(0, 64))
def test_shares_add_up_to_the_total(parts: list[tuple[float, float, float, float]], used: float) -> None:
    machine = MachineUsage(64, used, 0)
    streams = [stream(str(number), *part) for number, part in enumerate(parts)]
    cost = cost_of(streams, [CPU], machine)
    threads = sum(part[0] for part in parts)
    assert sum(one.cores for one in cost.streams) == pytest.approx(max(used, threads), abs=1e-6)
    assert all(0 <= one.share <= 1 for one in cost.streams)


def test_a_stream_pays_for_the_larger_of_its_cpu_and_accelerator_shares() -> None:
    cost = cost_of([stream("a", 0.1, 0.1, 1.0)], [GPU], MachineUsage(16, 0.3, 0))
    assert cost.streams[0].accelerator == cost.streams[0].share == 0.5  # two batches may be in flight
    assert cost.binding == "accelerator"


def test_decoding_cost_does_not_depend_on_the_rate() -> None:
    one = StreamCost("a", 0.2, 0.4, None, 10, 60, 0.15)
    faster = one.at(20, MACHINE)
    assert faster is not None
    assert faster.decode_cores == 0.2
    assert faster.shared_cores == pytest.approx(0.8)
    assert faster.share == pytest.approx((0.2 + 0.8) / 4)
    assert faster.cpu_ms_per_result == pytest.approx(50)
    assert StreamCost("a", 0.2, 0.4, None, 0, None, 0.15).at(20, MACHINE) is None


@pytest.mark.parametrize(
    ("used", "others", "more"),
    [(0.4, 0.0, 15), (3.4, 0.0, 0), (0.4, 3.0, 0), (0.4, 1.0, 10)],
)
def test_number_of_additional_streams(used: float, others: float, more: int) -> None:
    """Two streams use 0.2 of four cores each."""
    machine = MachineUsage(4, used, others)
    streams = [stream("a", 0.1, 0.1, 0.1), stream("b", 0.1, 0.1, 0.1)]
    cost = cost_of(streams, [CPU], machine)
    each = sum(one.cores for one in cost.streams) / 2
    assert cost.more_streams == max(0, int((4 * HEADROOM - used - others) / each))
    if used == 0.4:
        assert cost.more_streams == more
    assert ("no additional stream" in cost.summary) == (cost.more_streams == 0)


def test_unmeasured_streams_give_no_estimate() -> None:
    cost = cost_of([stream("a", 0.0, 0.0, 0.0, fps=0)], [CPU], MACHINE)
    assert cost.more_streams is None
    assert "no stream has been measured yet" in cost.summary
    assert spare_capacity(cost, {}, joins=True) is None


def test_degraded_streams_count_at_full_cost() -> None:
    """One stream uses 0.5 of four cores; the other uses 0.1 while degraded and 0.5 at full quality."""
    streams = [stream("a", 0.2, 0.1, 0.2), stream("b", 0.1, 0.0, 0.0)]
    machine = MachineUsage(4, 0.6, 0)
    as_they_are = cost_of(streams, [CPU], machine)
    assert as_they_are.more_streams == int((4 * HEADROOM - 0.6) / 0.3)
    full = replace(as_they_are.streams[0], name="b")
    cost = cost_of(streams, [CPU], machine, {"b": full})
    assert cost.more_streams == int((4 * HEADROOM - 0.6 - 0.4) / 0.5)
    assert (
        cost.summary
        == "CPU utilization is 15%; counting degraded streams (b) at full quality; 4 additional streams of this kind would fit."
    )
    room = spare_capacity(cost, {}, joins=True)
    same = spare_capacity(cost_of([streams[0], stream("b", 0.2, 0.1, 0.2)], [CPU], MachineUsage(4, 1.0, 0)), {}, joins=True)
    assert room is not None
    assert same is not None
    assert room.fps == pytest.approx(same.fps)
    unknown = cost_of(streams, [CPU], machine, {"b": None, "gone": None})
    assert (unknown.more_streams, spare_capacity(unknown, {}, joins=True)) == (None, None)
    assert "the number of additional streams is unknown: the cost of degraded streams (b) at full quality" in unknown.summary
    assert as_they_are.busy == cost.busy, "the current utilization does not change"


def test_degraded_streams_count_at_full_accelerator_cost() -> None:
    streams = [stream("a", 0.0, 0.0, 0.4), stream("b", 0.0, 0.0, 0.04)]
    gpu = replace(GPU, utilization=0.22)
    cost = cost_of(streams, [gpu], MachineUsage(64, 0.1, 0))
    full = cost_of(streams, [gpu], MachineUsage(64, 0.1, 0), {"b": replace(cost.streams[0], name="b")})
    assert (cost.more_streams, full.more_streams) == (int((HEADROOM - 0.22) / 0.11), int((HEADROOM - 0.22 - 0.18) / 0.2))


def test_spare_capacity_is_what_guaranteed_rates_leave() -> None:
    # Each result takes 0.05 cores, each stream 0.2 for its decoding.
    cost = cost_of([stream("a", 0.2, 0.1, 0.4), stream("b", 0.2, 0.1, 0.4)], [CPU], MachineUsage(4, 1.4, 0.0))
    free = spare_capacity(cost, {}, joins=True)
    assert free is not None
    assert free.fps == pytest.approx((4 * HEADROOM - 0.6) / 0.05)
    assert free.binding == "cpu"
    promised = spare_capacity(cost, {"a": 20, "b": 20}, joins=True)
    assert promised is not None
    assert promised.fps == pytest.approx(free.fps - 40)
    there = spare_capacity(cost, {}, joins=False)
    assert there is not None
    assert there.fps == pytest.approx(free.fps + 0.2 / 0.05)
    busy = spare_capacity(cost_of([stream("a", 0.2, 0.1, 0.4)], [CPU], MachineUsage(4, 0.7, 3.3)), {}, joins=True)
    assert busy is not None
    assert busy.fps == 0


def test_spare_capacity_of_an_accelerator() -> None:
    cost = cost_of([stream("a", 0.1, 0.1, 1.0)], [GPU], MachineUsage(64, 0.3, 0.0))
    room = spare_capacity(cost, {"b": 5}, joins=True)
    assert room is not None
    assert room.fps == pytest.approx((HEADROOM - 5 * 0.05) / 0.05)
    assert room.binding == "accelerator"


def priced(per_hour: float | None) -> FakeBackend:
    backend = FakeBackend()
    backend.settings = backend.settings.model_copy(update={"cost": CostSettings(machine_per_hour=per_hour, currency="CHF")})
    backend.put("yard", "rtsp://10.0.0.6/yard", usage=Usage(0.1, 0.1, 0.3), result_fps=10.0)
    return backend


def test_prices_over_the_api() -> None:
    api = Api(priced(0.5))
    answer = api.get("/api/v1/cost?fps=20").json()
    yard = next(one for one in answer["streams"] if one["name"] == "yard")
    assert answer["currency"] == "CHF"
    assert yard["per_month"] == pytest.approx(yard["share"] * 0.5 * 730, abs=0.05)
    assert yard["per_1000_results"] == pytest.approx(yard["per_month"] / (10 * 3600 * 730) * 1000, rel=0.01, abs=1e-6)
    assert yard["at_fps"] == 20
    assert yard["per_month_at_fps"] > yard["per_month"]
    shares = sum(one["share"] for one in answer["streams"])
    assert answer["unused_per_month"] == pytest.approx((1 - shares) * 365, abs=0.1)
    door = next(one for one in answer["streams"] if one["name"] == "door")
    assert (door["cpu_ms_per_result"], door["share_at_fps"], door["per_1000_results"]) == (None, None, None)


def test_shares_are_reported_without_a_price() -> None:
    answer = Api(priced(None)).get("/api/v1/cost").json()
    assert answer["machine_per_hour"] is answer["unused_per_month"] is None
    assert all(one["per_month"] is None and one["share"] >= 0 for one in answer["streams"])
    assert re.match(r"CPU utilization is 30%.*\.", answer["summary"])


@pytest.mark.parametrize("fps", ["0", "-1", "many", "nan"])
def test_invalid_rates_are_rejected(fps: str) -> None:
    problem(Api(priced(1)).get(f"/api/v1/cost?fps={fps}"), 422, "invalid")


def test_metrics_of_cost() -> None:
    text = Api(priced(1)).get("/metrics").text
    assert 'vision_infer_stream_cpu_cores{part="decode",stream="yard"} 0.1' in text
    assert 'vision_infer_machine_cpu_cores{by="unused"} 1.4' in text
    assert "vision_infer_more_streams" in text
