"""Further input sizes of a model are loaded for the first image of that size, without delaying other streams."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.pipeline.fakes import LONG_S, SIDE, FakeImage
from tests.pipeline.live_fakes import Camera
from tests.service.site import CountedEngine, Engines, Site, engines, settings, wanted
from tests.support.waiting import wait_until
from vision_infer.core.card import InputSize
from vision_infer.core.errors import EngineError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.engine.buffers import BufferPool
from vision_infer.engine.open import EngineRequest
from vision_infer.service.streams import lanes

__all__ = ["engines"]
WIDE = Size(2 * SIDE, SIDE)


class WideEngine(CountedEngine):
    """An engine for images of twice the width."""

    def __init__(self, engines: Engines) -> None:
        super().__init__("one", engines)
        self.card = self.card.model_copy(update={"input": InputSize(width=WIDE.width, height=WIDE.height)})
        self.input_size = WIDE
        self.pool = BufferPool(WIDE, self.batch_sizes, self.in_flight, {})
        self.name = "wide-cpu-none"


class WideCamera(Camera):
    """A camera with frames of twice the width."""

    def give(self, count: int = 1) -> None:
        def widened(frames: Iterator[Frame]) -> Iterator[Frame]:
            for frame in frames:
                assert isinstance(frame.image, FakeImage)
                frame.image.size = WIDE
                yield frame

        for _ in range(count):
            self._order(lambda connection: widened(connection.frame()))


class Opening:
    """The model ``one`` has two input sizes; the second is loaded when ``go`` is set, and fails if there is an error."""

    def __init__(self, engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.made: list[WideEngine] = []
        card = WideEngine(engines).card

        def open_quickly(path: Path, request: EngineRequest, on_message: Callable[[str], None]) -> tuple[CountedEngine, None]:
            if not path.name.endswith("-wide"):
                return engines.open(path, request, on_message), None
            self.begun.set()
            assert self.go.wait(LONG_S)
            if self.error is not None:
                raise self.error
            self.made.append(WideEngine(engines))
            return self.made[-1], None

        monkeypatch.setattr(lanes, "model_inputs", lambda model, _: {Size(SIDE, SIDE): Path(model), WIDE: Path(f"{model}-wide")})
        monkeypatch.setattr(lanes, "read_graph_facts", lambda path: SimpleNamespace(card=card))
        monkeypatch.setattr(lanes, "open_quickly", open_quickly)


@pytest.fixture
def opening(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opening]:
    made = Opening(engines, monkeypatch)
    yield made
    made.go.set()


def test_other_streams_continue_while_the_engine_loads(opening: Opening, engines: Engines) -> None:
    wide, other = WideCamera(0), Camera(1)
    with Site(wide, other, of=settings({"s0": wanted(wide), "s1": wanted(other)})) as site:
        site.give(other)
        assert not opening.begun.is_set()
        wide.give(2)
        assert opening.begun.wait(LONG_S)
        site.give(other, 20)
        assert [lane.name for lane in site.service.lanes()] == ["one"]
        assert not site.sink.indices("s0")
        opening.go.set()
        wait_until(lambda: 1 in site.sink.indices("s0"), "the newest of the waiting frames")
        site.give(wide, 3)
        assert {lane.name: lane.engine for lane in site.service.lanes()}["one@512x256"] == "wide-cpu-none"
        assert len(opening.made) == 1
        assert {stream for batch in opening.made[0].batches for stream, _ in batch} == {0}
    assert engines.closed.count("one") == 2  # the default size and the wide one


def test_without_the_engine_images_use_the_default_size(opening: Opening, caplog: pytest.LogCaptureFixture) -> None:
    opening.error = EngineError("the runtime is broken")
    opening.go.set()
    wide = WideCamera(0)
    with Site(wide, of=settings({"s0": wanted(wide)})) as site:
        wide.give()
        wait_until(
            lambda: "one@512x256: this input size is not used: the runtime is broken" in caplog.text, "the failure to be logged"
        )
        site.give(wide, 3)
        assert [lane.name for lane in site.service.lanes()] == ["one"]


def test_the_end_does_not_wait_for_the_engine(opening: Opening, engines: Engines, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    wide = WideCamera(0)
    with Site(wide, of=settings({"s0": wanted(wide)})) as site:
        wide.give()
        assert opening.begun.wait(LONG_S)
        site.close()
        opening.go.set()
        wait_until(lambda: engines.closed.count("one") == 2, "the unused engine to be closed")
    assert "done without" not in caplog.text


def test_an_unused_model_gets_no_engine(opening: Opening, engines: Engines) -> None:
    wide = WideCamera(0)
    with Site(wide, of=settings()) as site:
        site.service.create("s0", wanted(wide, model="two"))
        wide.give()
        assert opening.begun.wait(LONG_S)
        removing = threading.Thread(target=site.service.delete, args=("s0",))
        removing.start()
        opening.go.set()
        removing.join(LONG_S)
        wait_until(lambda: not {"two"} & engines.loaded, "the engine of the default size to be closed")
