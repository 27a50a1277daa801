"""A service whose cameras, engines and stored settings a test controls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.pipeline.fakes import LONG_S, SIDE, EchoEngine, FakeSink
from tests.pipeline.live_fakes import Camera, Connection
from tests.support.waiting import wait_until
from vision_infer.config.serve import ServeSettings, ServiceSettings, StreamSettings
from vision_infer.core.card import parse_card
from vision_infer.core.errors import EngineError, ModelError, OutputError
from vision_infer.core.geometry import Size
from vision_infer.engine.open import EngineRequest
from vision_infer.pipeline.status import StreamEvent, StreamState, StreamStatus
from vision_infer.service.results.sinks import SinkSet
from vision_infer.service.service import Service
from vision_infer.service.streams import lanes
from vision_infer.stream.source import SourceSpec

SOON = {"min_s": 0.001, "max_s": 0.001}


class CountedEngine(EchoEngine):
    """An engine that counts how often it is opened and closed."""

    def __init__(self, model: str, engines: Engines) -> None:
        super().__init__(2, (1, 2), run=lambda batch: engines.run(model, batch))
        self.card = parse_card(
            {
                "name": model,
                "task": "classify" if model == "classes" else "detect",
                "input": {"width": SIDE, "height": SIDE},
                "fit": "stretch",
                "iou": None,
                "labels": ["person", "car"],
                "confidence": 0.3,
            },
            model,
        )
        self._engines = engines

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._engines.closed.append(self.card.name)


class Engines:
    """The detectors ``one``, ``two`` and ``three``, the classifier ``classes``, and ``broken``, which cannot be loaded."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.before_open: Any = lambda model: None
        self.run: Any = lambda model, batch: None

    @property
    def loaded(self) -> set[str]:
        return {model for model in self.opened if self.opened.count(model) > self.closed.count(model)}

    def resolve(self, model: str, folder: Path | None) -> Path:
        del folder
        if model not in ("one", "two", "three", "classes", "broken"):
            raise ModelError(f"unknown model {model!r}", "there are one, two, three")
        return Path(model)

    def open(self, path: Path, request: EngineRequest, on_message: Callable[[str], None]) -> CountedEngine:
        del on_message
        self.before_open(path.name)
        if path.name == "broken":
            raise EngineError("broken: cannot be loaded", "choose another")
        self.opened.append(path.name)
        engine = CountedEngine(path.name, self)
        engine.device_name = "cpu" if request.device == "auto" else request.device
        return engine


class Keeper:
    """Stores settings in memory; ``full`` simulates a full disk."""

    def __init__(self, kept: Mapping[str, StreamSettings] | None = None) -> None:
        self.kept = dict(kept or {})
        self.full = False

    def read(self) -> Mapping[str, StreamSettings]:
        return dict(self.kept)

    def write(self, name: str, settings: StreamSettings) -> None:
        if self.full:
            raise OutputError(f"{name}.yaml: the stream cannot be stored: No space left on device")
        self.kept[name] = settings

    def remove(self, name: str) -> None:
        if self.full:
            raise OutputError(f"{name}.yaml: cannot be removed: Read-only file system")
        self.kept.pop(name, None)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    made = Engines()
    monkeypatch.setattr(lanes, "resolve_model", made.resolve)
    monkeypatch.setattr(lanes, "model_inputs", lambda model, folder: {Size(SIDE, SIDE): made.resolve(model, folder)})
    monkeypatch.setattr(lanes, "open_quickly", lambda *given: (made.open(*given), None))
    return made


def wanted(camera: Camera, **more: Any) -> StreamSettings:
    """Return the settings of a stream from a camera."""
    return StreamSettings.model_validate({"detect": camera.path, "reconnect": SOON, **more})


def settings(streams: Mapping[str, StreamSettings] | None = None, **more: Any) -> ServeSettings:
    service = more.pop("service", {})
    return ServeSettings(model="one", streams=dict(streams or {}), service=ServiceSettings(**service), **more)


class Site:
    """A running service."""

    def __init__(
        self,
        *cameras: Camera,
        of: ServeSettings | None = None,
        keep: Keeper | None = None,
        ready: bool = True,
        shadow_file: Path | None = None,
        sink_set: SinkSet | None = None,
        alone: bool = True,
    ) -> None:
        self.by_path = {camera.path: camera for camera in cameras}
        self.sink = FakeSink()
        self.events: list[StreamEvent] = []
        self.keep = keep or Keeper()
        self.closed = False
        self.service = Service(
            of or settings(),
            self.keep,
            [self.sink],
            self.events.append,
            open_stream=self.open,
            sink_set=sink_set,
            shadow_file=shadow_file,
            alone=alone,
        )
        self.service.start()
        if ready:
            wait_until(lambda: self.service.ready()[0], "the service to be ready")

    def open(self, spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> Connection:
        return self.by_path[spec.paths[0]].open(stopping)

    def status(self, name: str) -> StreamStatus:
        status = self.service.stream(name).status
        assert status is not None, f"{name} is disabled"
        return status

    def wait_state(self, name: str, state: StreamState) -> StreamStatus:
        wait_until(lambda: self.status(name).state is state, f"{name} to be {state.value}, it is {self.status(name)}")
        return self.status(name)

    def states(self, name: str) -> list[str]:
        return [event.state.value for event in self.events if event.stream == name]

    def give(self, camera: Camera, count: int = 1) -> None:
        """Make a camera deliver frames, one after the other."""
        for _ in range(count):
            written = len(self.sink.indices(camera.name))
            camera.give()
            wait_until(lambda: len(self.sink.indices(camera.name)) > written, f"a result of {camera.name}")  # noqa: B023

    def close(self) -> None:
        self.closed = True
        began = time.monotonic()
        work = threading.Thread(target=self.service.close, daemon=True)
        work.start()
        work.join(LONG_S)
        assert not work.is_alive(), "close() hangs"
        assert time.monotonic() - began < LONG_S / 2

    def __enter__(self) -> Site:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for camera in self.by_path.values():
            camera.release.set()
        if not self.closed:
            self.close()
