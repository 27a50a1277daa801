"""Streams degrade while an engine is too slow, and recover: real sources and a real service, an engine of controlled speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.fakes import LONG_S
from tests.service.fakes import Api
from tests.service.site import CountedEngine, Engines, Site, engines, settings
from tests.support.waiting import wait_until
from vision_infer.config.serve import StreamSettings
from vision_infer.engine.engine import RawResults, Ticket
from vision_infer.engine.open import EngineRequest
from vision_infer.pipeline.status import LaneStatus, StreamState, StreamStatus, Usage
from vision_infer.pipeline.workers import live_watch
from vision_infer.schedule import degradation
from vision_infer.schedule.degradation import DegradationStep
from vision_infer.service.events import DegradeEvent, to_row
from vision_infer.service.streams import degradation as monitor
from vision_infer.service.streams.configured import ConfiguredStream
from vision_infer.service.streams.cost import MachineUsage, cost_of
from vision_infer.service.streams.degradation import full_costs, observe_streams, record_full_costs, settings_at
from vision_infer.stream.find import open_source

__all__ = ["engines"]
MAIN, SUB = "test://?size=320x180&fps=20", "test://?size=160x120&fps=20"
QUICK = {
    "WINDOW_NS": 1_500_000_000,
    "MIN_WINDOW_NS": 700_000_000,
    "AFTER_NS": 500_000_000,
    "SETTLE_NS": 500_000_000,
    "BACK_NS": 800_000_000,
    "MAX_BACK_NS": 1_600_000_000,
}


class Rig(Site):
    """A service with real streams on a machine without other load."""

    def __init__(self, **streams: StreamSettings) -> None:
        self.speed = 1.0
        super().__init__(of=settings(streams))
        self.service._load._machine = lambda: MachineUsage(2.0, 0.1, 0.0)  # type: ignore[method-assign]

    def __enter__(self) -> Rig:
        return self

    def open(self, *given: Any) -> Any:
        return open_source(*given)

    def steps(self, name: str) -> list[str]:
        return [event.step.word for event in self.service.events() if isinstance(event, DegradeEvent) and event.stream == name]

    def wait_steps(self, name: str, *words: str) -> None:
        wait_until(lambda: self.steps(name) == list(words), f"{words} of {name}, it is {self.steps(name)}")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all intervals of the policy."""
    for name, value in QUICK.items():
        monkeypatch.setattr(degradation, name, value)
    monkeypatch.setattr(monitor, "INTERVAL_S", 0.1)
    monkeypatch.setattr(live_watch, "INTERVAL_S", 0.05)
    monkeypatch.setattr(live_watch, "_SAMPLE_NS", 100_000_000)


class Timed(CountedEngine):
    """An engine with a configured batch time."""

    def __init__(self, model: str, engines: Engines, seconds: dict[str, float]) -> None:
        super().__init__(model, engines)
        self._seconds = seconds

    def collect(self, ticket: Ticket) -> RawResults:
        took_s = self._seconds[self.card.name]
        time.sleep(took_s)
        now = time.monotonic_ns()
        return replace(super().collect(ticket), started_ns=now - round(took_s * 1e9), ended_ns=now)


def slow(engines: Engines, seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the batch time of each model's engine; the test may change it."""
    opened = engines.open

    def open_timed(path: Path, request: EngineRequest, on_message: Callable[[str], None]) -> CountedEngine:
        opened(path, request, on_message)
        return Timed(path.name, engines, seconds)

    monkeypatch.setattr(engines, "open", open_timed)


def stream(**more: Any) -> StreamSettings:
    return StreamSettings.model_validate({"detect": MAIN, "fps": 20, **more})


@pytest.mark.slow
def test_a_stream_degrades_in_order_and_recovers_in_reverse_order(
    engines: Engines, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"one": 0.25, "two": 0.01}
    slow(engines, seconds, monkeypatch)
    with Rig(front=stream(degrade_detect=SUB, degrade_model="two")) as site:
        wait_until(lambda: site.steps("front")[:2] == ["rate", "substream"], "its substream")
        wait_until(lambda: len(site.steps("front")) == 3, "another model")
        assert site.steps("front") == ["rate", "substream", "model"]
        wait_until(lambda: site.status("front").state is StreamState.LIVE, "the substream")
        status = site.status("front")
        assert (status.model, status.size, status.degraded) == ("two", (160, 120), "model")
        last = [event for event in site.service.events() if isinstance(event, DegradeEvent)][-1]
        assert status.degraded_reason == last.reason
        assert 0 <= time.time_ns() - status.degraded_wall_ns < LONG_S * 1e9
        assert site.service.stream("front").settings.detect == MAIN, "the settings do not change"
        assert site.service.cost().full_costs["front"] is not None, "the full cost was measured before"
        assert engines.loaded == {"one", "two"}
        (rate, *_) = (event for event in site.service.events() if isinstance(event, DegradeEvent))
        assert "of 20 fps" in rate.reason
        assert "busy" in rate.reason

        seconds["one"] = 0.0
        site.wait_steps("front", "rate", "substream", "model", "substream", "rate", "none")
        wait_until(lambda: site.status("front").state is StreamState.LIVE, "the main stream")
        status = site.status("front")
        assert (status.model, status.size, status.degraded) == ("one", (320, 180), "none")
        assert site.service.cost().full_costs == {}
        assert (status.degraded_wall_ns, status.degraded_reason) == (0, "")
        models = [result.model for _, _, result in site.sink.written if result is not None]
        assert [model for number, model in enumerate(models) if number == 0 or models[number - 1] != model] == [
            "one",
            "two",
            "one",
        ]


@pytest.mark.slow  # 5 s
def test_a_failed_step_is_logged_once_and_not_tried_again(
    engines: Engines, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow(engines, {"one": 0.25, "two": 0.0}, monkeypatch)
    with Rig(front=stream(degrade_model="broken"), yard=stream(fps=None)) as site:
        wait_until(lambda: "front: stays at rate: broken: cannot be loaded" in caplog.text, "the failed step to be logged")
        wait_until(
            lambda: DegradationStep.MODEL in site.service._streams.configured()["front"].refused, "the failed step to be stored"
        )
        (taken,) = (event for event in site.service.events() if isinstance(event, DegradeEvent))
        shown = site.status("front")
        assert (shown.degraded, shown.degraded_reason) == ("rate", taken.reason), "the reason of the applied step"
        results = site.status("front").results
        wait_until(lambda: site.status("front").results > results + 10, "the stream to continue")
        assert caplog.text.count("stays at rate") == 1
        assert site.steps("front") == ["rate"]
        assert site.steps("yard") == [], "a stream without fps never degrades"


def test_new_settings_reset_the_degradation(engines: Engines, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"one": 0.25, "two": 0.0}
    slow(engines, seconds, monkeypatch)
    with Rig() as site:
        site.service.create("front", stream(degrade_model="two"))
        site.wait_steps("front", "rate", "model")
        seconds["one"] = 0.0
        site.service.replace("front", stream(fps=10))
        status = site.status("front")
        assert (status.model, status.degraded) == ("one", "none")
        assert engines.loaded == {"one"}
        site.service.delete("front")


@pytest.mark.parametrize(
    ("step", "detect", "model"),
    [
        (DegradationStep.NONE, MAIN, None),
        (DegradationStep.RATE, MAIN, None),
        (DegradationStep.SUBSTREAM, SUB, None),
        (DegradationStep.MODEL, SUB, "two"),
    ],
)
def test_a_later_step_includes_the_earlier_ones(step: DegradationStep, detect: str, model: str | None) -> None:
    at = settings_at(stream(degrade_detect=SUB, degrade_model="two"), step)
    assert (at.detect, at.model, at.fps) == (detect, model, 20)


def status(**more: Any) -> StreamStatus:
    counts: dict[str, Any] = {
        "frames_expected": None,
        "frame_rate": None,
        "decoded": 90,
        "results": 40,
        "detections": 0,
        "gaps": 0,
    }
    fixed = counts | {"dropped": {}, "error": None, "image_bytes": 0, "live": True}
    return StreamStatus(**{"name": "front", "source": MAIN, "state": StreamState.LIVE, **fixed, **more})


def lane(utilization: float) -> LaneStatus:
    return LaneStatus("one", "one", "onnxruntime-cpu-fp32", (1, 1), (1,), 2, 0, 0, {}, 0, 0, utilization, {}, 0, 0)


def test_which_drops_count_as_overload(engines: Engines) -> None:
    del engines
    lost = {"superseded": 1, "outdated": 2, "backlogged": 4, "stale": 8, "not_referenced": 16, "to_keyframe": 32}
    others = {"paced": 1000, "hook": 1000, "failed": 1000, "late": 1000, "no_keyframe": 1000, "undecoded": 1000, "stopped": 1000}

    def see(of: StreamSettings, one: StreamStatus, *used: float) -> degradation.StreamLoad | None:
        cost = cost_of([one], [], MachineUsage(2.0, 0.4, 0.6))
        return observe_streams({"front": ConfiguredStream(of, "file")}, [one], [lane(part) for part in used], cost).get("front")

    seen = see(stream(degrade_model="two"), status(dropped=lost | others), 0.3, 0.3)
    assert seen is not None
    assert (seen.results, seen.lost, seen.steps, seen.busy) == (40, 63, frozenset({DegradationStep.MODEL}), 0.6)
    busy = [see(stream(), one, *used) for one, used in ((status(), (0.1,)), (status(usage=Usage(thread=0.9)), (0.1,)))]
    assert [one and one.busy for one in busy] == [0.5, 0.9], "the machine, and the stream's own thread"
    assert see(stream(fps=None), status(dropped=lost), 1.0) is None
    assert see(stream(), status(live=False)) is None


def test_the_full_cost_of_a_degraded_stream_is_remembered() -> None:
    one = ConfiguredStream(stream(degrade_detect=SUB), "file")
    streams = {"front": one}
    assert full_costs(streams) == {}
    for step, thread, expected in (
        (DegradationStep.NONE, 0.3, 0.3),
        (DegradationStep.RATE, 0.4, 0.4),
        (DegradationStep.SUBSTREAM, 0.1, 0.4),
    ):
        one.step = step
        now = status(usage=Usage(thread, 0.1, 0.1), result_fps=5.0, decoded_fps=15.0)
        record_full_costs(streams, [now], cost_of([now], [], MachineUsage(2.0, 1.0, 0.0)))
        full = one.full_cost
        assert full is not None
        assert (full.decode_cores, full.result_fps) == (expected, 15.0), "it wants 20 fps, but its camera delivers 15"
        assert full_costs(streams) == ({} if step is DegradationStep.NONE else {"front": full})
    nothing = ConfiguredStream(stream(), "file")
    silent = status(result_fps=0.0)
    record_full_costs({"front": nothing}, [silent], cost_of([silent], [], MachineUsage(2.0, 1.0, 0.0)))
    nothing.step = DegradationStep.RATE
    assert full_costs({"front": nothing}) == {"front": None}


def test_degradation_is_visible_in_events_status_and_metrics() -> None:
    api = Api()
    why = {"degraded_wall_ns": 1_764_000_000_000_000_000, "degraded_reason": "3.1 of 10 fps, 100% busy"}
    api.backend.put("door", "rtsp://10.0.0.5/door", degraded="substream", **why)
    now = api.clock.now
    event = DegradeEvent("door", DegradationStep.SUBSTREAM, DegradationStep.RATE, now, "3.1 of 10 fps, 100% busy")
    api.backend.published.append(event)
    (shown,) = api.get("/api/v1/events").json()
    assert shown.pop("at").endswith("Z")
    expected = {"type": "degraded", "stream": "door", "step": "substream", "before": "rate", "reason": "3.1 of 10 fps, 100% busy"}
    assert shown == expected
    assert '"type": "degraded", "stream": "door", "step": "substream", "before": "rate"' in to_row(event, 0)
    status = api.get("/api/v1/streams/door").json()["status"]
    assert (status["degraded"], status["degraded_reason"]) == ("substream", "3.1 of 10 fps, 100% busy")
    assert status["degraded_since"] == "2025-11-24T16:00:00.000Z"
    api.backend.put("door", "rtsp://10.0.0.5/door")
    status = api.get("/api/v1/streams/door").json()["status"]
    assert (status["degraded"], status["degraded_since"], status["degraded_reason"]) == ("none", None, "")
    api.backend.put("door", "rtsp://10.0.0.5/door", degraded="substream", **why)
    assert 'vision_infer_stream_degraded{stream="door"} 2.0' in api.get("/metrics").text
