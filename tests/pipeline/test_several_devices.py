"""A run on several devices: an engine on each, and what happens if one of them cannot be used."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest

from tests.engine.graphs import tiny_graph
from tests.pipeline.fakes import CARD, EchoEngine, wait_for
from tests.support import media
from vision_infer.analyze.select import Selector
from vision_infer.config.run import run_settings
from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.errors import DeviceLostError, EngineError, ModelError
from vision_infer.engine.engine import Engine, Loan, Ticket, device_of
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.selection.candidates import EngineCandidate
from vision_infer.engine.selection.warm_start import WarmStart
from vision_infer.pipeline.lanes import opening
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.replicas import make_replicated, open_replicas
from vision_infer.pipeline.lanes.upgrade import upgrades_of
from vision_infer.pipeline.runs.offline import run

FRAMES = 60


class Closable(EchoEngine):
    closed = False

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Opener:
    """Opens an engine on any device, except on those with an error."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors
        self.made: dict[str, Closable] = {}

    def __call__(self, path: Path, request: EngineRequest, on_message: Callable[[str], None]) -> tuple[Engine, None]:
        error = self.errors.get(request.device.replace(":", ""))
        if error is not None:
            raise error
        self.made[request.device] = Closable()
        self.made[request.device].device_name = request.device
        return self.made[request.device], None


def opened_on(devices: str, opener: Opener) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    opened = open_replicas(Path("x.onnx"), EngineRequest(device=devices), opener, lines.append)
    return [device_of(one.engine) for one in opened], lines


def test_an_engine_is_opened_on_each_device() -> None:
    assert opened_on("cuda:0,cuda:1,cpu", Opener()) == (["cuda:0", "cuda:1", "cpu"], [])


class UntilThePlan(Opener):
    """On a GPU without a plan it opens an engine on the CPU, and says what to build."""

    def __init__(self, planned: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.planned = planned
        self.opened: list[Closable] = []
        self.samples = BytesIO()

    def __call__(self, path: Path, request: EngineRequest, on_message: Callable[[str], None]) -> tuple[Engine, WarmStart | None]:  # type: ignore[override]
        self.opened.append(Closable())
        if request.device == "cpu":
            return self.opened[-1], None
        if request.device in self.planned:
            self.opened[-1].device_name = request.device
            return self.opened[-1], None
        first = EngineCandidate(path, cast("Any", None), "onnxruntime-cuda-fp32", device=request.device)
        return self.opened[-1], WarmStart(first, None, self.samples if len(self.opened) == 1 else BytesIO())


def upgrades_for(devices: str, opener: UntilThePlan) -> tuple[list[str], list[tuple[str, int | None]], set[int], list[str]]:
    """Return the devices of a lane, the device and the replica of each upgrade, the GPUs that will decode, and the messages."""
    lines: list[str] = []
    request = EngineRequest(device=devices)
    opened = open_replicas(Path("x.onnx"), request, opener, lines.append)
    lane = make_replicated(opened, lambda engine: Lane("main", engine, Selector(confidence=0.1, iou=None)))
    assert [engine.closed for engine in opener.opened] == [engine not in lane.engines for engine in opener.opened]
    upgrades = upgrades_of(lane, Path("x.onnx"), request, opened)
    assert all(one.quick.samples is opener.samples for one in upgrades)
    places = [(one.quick.device, one.replica) for one in upgrades]
    return [one.device for one in lane.replicas], places, lane.next_gpus, lines


def test_until_their_plans_are_built_all_gpus_share_one_engine_on_the_cpu() -> None:
    """Its place is taken last: the other plans are verified on the frames that it keeps."""
    found = upgrades_for("cuda:0,cuda:1,cuda:2", UntilThePlan())
    assert found == (["cpu"], [("cuda:1", None), ("cuda:2", None), ("cuda:0", 0)], {0, 1, 2}, [])


def test_a_gpu_with_a_plan_runs_together_with_the_engine_on_the_cpu() -> None:
    found = upgrades_for("cuda:0,cuda:1,cuda:2", UntilThePlan(planned=("cuda:1",)))
    assert found == (["cpu", "cuda:1"], [("cuda:2", None), ("cuda:0", 0)], {0, 2}, [])


def test_an_engine_on_the_cpu_that_gets_no_plan_is_not_a_second_replica() -> None:
    opener = Opener()
    opened = open_replicas(Path("x.onnx"), EngineRequest(device="cpu,cuda:1"), OnCpu(opener), (lines := list[str]()).append)
    assert [device_of(one.engine) for one in opened] == ["cpu"]
    assert lines == ["cuda:1 is not used: the lane runs on the CPU already"]


class OnCpu:
    """It opens every engine on the CPU."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener

    def __call__(self, path: Path, request: EngineRequest, on_message: Callable[[str], None]) -> tuple[Engine, None]:
        return self._opener(path, replace(request, device="cpu"), on_message)


@pytest.mark.parametrize("bad", ["cuda:0", "cuda:1"])
def test_a_device_without_an_engine_is_left_out_with_one_line(bad: str) -> None:
    opener = Opener(**{bad.replace(":", ""): EngineError("no memory left", "Free some.")})
    devices, lines = opened_on("cuda:0,cuda:1", opener)
    assert devices == [one for one in ("cuda:0", "cuda:1") if one != bad]
    assert lines == [f"{bad} is not used: no memory left. Free some."]


def test_without_any_device_the_first_error_is_raised() -> None:
    opener = Opener(cuda0=EngineError("no memory left"), cuda1=EngineError("it does not exist"))
    with pytest.raises(EngineError, match="no memory left"):
        opened_on("cuda:0,cuda:1", opener)


def test_open_engines_are_closed_if_the_model_is_wrong() -> None:
    opener = Opener(cuda1=ModelError("this is not a deployment graph"))
    with pytest.raises(ModelError):
        opened_on("cuda:0,cuda:1", opener)
    assert opener.made["cuda:0"].closed


def test_engines_of_different_models_are_not_put_in_one_lane() -> None:
    opener = Opener()
    opened = open_replicas(Path("x.onnx"), EngineRequest(device="cuda:0,cuda:1"), opener, print)
    opener.made["cuda:1"].card = CARD.model_copy(update={"labels": ("another",)})
    with pytest.raises(ValueError, match="its labels differs"):
        make_replicated(opened, lambda engine: Lane("main", engine, Selector(confidence=0.1, iou=None)))
    assert all(engine.closed for engine in opener.made.values())


class Wrapped:
    """A real engine in place of one on a GPU."""

    def __init__(self, engine: Engine, device: str) -> None:
        self._engine = engine
        self.device_name = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __enter__(self) -> Wrapped:
        return self

    def __exit__(self, *given: Any) -> None:
        self._engine.__exit__(*given)


class Dying(Wrapped):
    """Its device is lost after some batches."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "cuda:1")
        self._left = 5
        self.lost = 0
        self.died = threading.Event()

    def submit(self, loan: Loan) -> Ticket:
        if self._left == 0:
            self.lost += len(loan.slots)
            self._engine.release(loan)
            self.died.set()
            raise DeviceLostError("cuda:1 is gone", "Look at dmesg.")
        self._left -= 1
        return self._engine.submit(loan)


class Busy(Wrapped):
    """It keeps its second batch until another device has died: that gets the other frames."""

    def __init__(self, engine: Engine, dying: list[Dying]) -> None:
        super().__init__(engine, "cuda:0")
        self._dying = dying
        self._count = 0

    def submit(self, loan: Loan) -> Ticket:
        self._count += 1
        if self._count == 2:
            wait_for(self._dying[0].died)
        return self._engine.submit(loan)


def test_a_run_goes_on_when_one_of_two_devices_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    plain = opening.open_quickly
    dying: list[Dying] = []
    requests: list[str] = []

    def open_it(path: Path, request: EngineRequest, on_message: Callable[[str], None]) -> tuple[Engine, WarmStart | None]:
        requests.append(request.device)
        engine, _ = plain(path, replace(request, device="cpu"), on_message)
        if request.device != "cuda:1":
            return Busy(engine, dying), None
        dying.append(Dying(engine))
        return dying[0], None

    monkeypatch.setattr(opening, "open_quickly", open_it)
    card: ModelCard = parse_card({"name": "tiny", "input": {"width": 32, "height": 32}, "iou": None}, "tiny")
    graph = tiny_graph(tmp_path / "model.onnx", card)
    sources = []
    for number in range(3):
        sources.append(tmp_path / f"{number}.mp4")
        sources[-1].symlink_to(media.excerpt(0, FRAMES, 64, 48))
    settings = run_settings(
        sources=tuple(map(str, sources)),
        model=str(graph),
        engine="onnxruntime-cpu-fp32",
        device="cuda:0,cuda:1",
        workers=1,
        out=(str(tmp_path / "rows.jsonl"),),
    )
    summary = run(settings, threading.Event())
    assert requests == ["cuda:0", "cuda:1"]
    assert dying[0].lost >= 1
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == summary.frames == 3 * FRAMES - dying[0].lost
    assert sum(source["dropped"].get("failed", 0) for source in summary.sources) == dying[0].lost
    for stream in {row["stream"] for row in rows}:
        frames = [row["frame"] for row in rows if row["stream"] == stream]
        assert frames == sorted(frames)
    assert "on cuda:1 is no longer used, the lane continues on its other devices: cuda:1 is gone. Look at dmesg." in caplog.text
