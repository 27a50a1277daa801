"""An engine for another input size is opened when the first image for it arrives."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.engine.graphs import tiny_graph
from tests.pipeline.fakes import LONG_S, EchoEngine, FakeImage, FakeSink, FakeSource, add, close, finish, wait_for
from tests.precision.tiny import CARD as TINY
from tests.precision.tiny import tiny_model, write_tiny
from tests.support import media
from tests.support.waiting import wait_until
from vision_infer.analyze.select import Selector
from vision_infer.config.run import run_settings
from vision_infer.core.card import InputSize, ModelCard, parse_card
from vision_infer.core.errors import EngineError, ModelError, VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.engine.buffers import BufferPool
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.placeholder import PlaceholderEngine
from vision_infer.engine.selection.warm_start import WarmStart
from vision_infer.model.model_folder import card_to_yaml
from vision_infer.pipeline.lanes import opening
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.late_engine import LateEngine
from vision_infer.pipeline.lanes.replicas import OpenedReplica, put_in
from vision_infer.pipeline.runs import offline
from vision_infer.pipeline.runs.api import Detector, Pipeline
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.stream.find import find_sources, size_in_header
from vision_infer.stream.source import SourceSpec

OWN, WIDE = Size(256, 256), Size(512, 256)


def card_of(size: Size) -> ModelCard:
    return parse_card(
        {"name": "echo", "input": {"width": size.width, "height": size.height}, "fit": "stretch", "iou": None}, "echo"
    )


class SizedEngine(EchoEngine):
    """An engine for images of one size, with an event for its end."""

    def __init__(self, size: Size) -> None:
        super().__init__(2, (1, 2))
        self.input_size, self.card = size, card_of(size)
        self.pool = BufferPool(size, self.batch_sizes, self.in_flight, {})
        self.closed = threading.Event()

    def __exit__(self, *_: object) -> None:
        self.closed.set()


class SizedSource(FakeSource):
    """All its images have one size."""

    def __init__(self, number: int, count: int, size: Size, **more: Any) -> None:
        super().__init__(number, count, **more)
        self.size = size

    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            assert isinstance(frame.image, FakeImage)
            frame.image.size = self.size
            yield frame


class Late:
    """Two lanes; a function of the test opens the engine of the wide one."""

    def __init__(
        self, open_it: Callable[[], Engine], *sources: SizedSource, keep_going: bool = False, device: str = "auto"
    ) -> None:
        self.own, self.shared = SizedEngine(OWN), FakeSink()
        lane = Lane("main", self.own, Selector(confidence=0.1, iou=None), group="main")
        self.wide = Lane("wide", PlaceholderEngine(card_of(WIDE), self.own), Selector(confidence=0.1, iou=None), group="main")
        by_name = {source.name: source for source in sources}

        def open_stream(spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> FakeSource:
            return by_name[spec.name]

        devices = device.count(",") + 1
        self.supervisor = Supervisor(
            [lane, self.wide], [self.shared], open_stream=open_stream, keep_going=keep_going, devices=devices
        )
        self.errors: list[VisionInferError] = []
        request = EngineRequest(device=device)
        self.late = LateEngine(Path("wide.onnx"), request, lambda *_: (open_it(), None), self.put_in, self.give_up, print)
        self.wide.want = self.late.want
        for source in sources:
            self.supervisor.add(add(source))

    def put_in(self, opened: Sequence[OpenedReplica]) -> None:
        put_in(self.supervisor, self.wide, opened)

    def give_up(self, error: VisionInferError) -> None:
        self.errors.append(error)
        self.supervisor.give_up("wide", error)


def test_an_engine_without_images_is_not_opened() -> None:
    late = Late(lambda: pytest.fail("the engine was not needed"), SizedSource(0, 30, OWN))
    finish(late.supervisor)
    late.late.join()
    assert late.shared.indices() == list(range(30))
    assert [lane.name for lane in late.supervisor.lane_statuses()] == ["main"]


def test_a_late_engine_is_opened_on_each_device() -> None:
    first, second = SizedEngine(WIDE), SizedEngine(WIDE)
    first.device_name, second.device_name = "cuda:0", "cuda:1"
    first._run = lambda _: wait_until(lambda: bool(second.batches), "a batch on the second device")
    engines = iter([first, second])

    def open_it() -> Engine:
        return next(engines)

    late = Late(open_it, SizedSource(0, 200, WIDE), device="cuda:0,cuda:1")
    finish(late.supervisor)
    late.late.join()
    assert late.shared.indices("s0") == list(range(200))
    wide = late.supervisor.lane_statuses()[1]
    assert [(one.device, one.removed) for one in wide.replicas] == [("cuda:0", None), ("cuda:1", None)]
    late.wide.close()
    assert first.closed.is_set()
    assert second.closed.is_set()


def test_images_wait_for_a_late_engine_and_none_is_lost() -> None:
    hold, wide = threading.Event(), SizedEngine(WIDE)

    def open_it() -> Engine:
        wait_for(hold)
        return wide

    late = Late(open_it, SizedSource(0, 50, WIDE), SizedSource(1, 50, OWN))
    late.shared.wait_written(50)  # the other stream does not wait for it
    assert late.shared.indices("s1") == list(range(50))
    assert not late.shared.indices("s0")
    hold.set()
    finish(late.supervisor)
    late.late.join()
    assert late.shared.indices("s0") == list(range(50))
    assert sum(map(len, wide.batches)) == 50
    assert {stream for batch in late.own.batches for stream, _ in batch} == {1}
    assert late.wide.engine is wide


@pytest.mark.parametrize("raised", [ModelError("wide.onnx cannot be loaded", "is it whole?"), MemoryError(), KeyError("x")])
def test_a_run_ends_with_the_error_of_opening(raised: Exception) -> None:
    def open_it() -> Engine:
        raise raised

    late = Late(open_it, SizedSource(0, 500, WIDE))
    finish(late.supervisor)
    assert late.supervisor.error is late.errors[0]
    assert (late.errors[0] is raised) == isinstance(raised, VisionInferError)
    assert not late.shared.results()


def test_a_service_continues_with_the_own_input_size() -> None:
    begun = threading.Event()

    def open_it() -> Engine:
        raise EngineError("the runtime is broken")

    def before(index: int) -> None:
        if index == 1:
            wait_for(begun)

    late = Late(open_it, SizedSource(0, 40, WIDE, before=before), keep_going=True)
    wait_until(lambda: late.errors, "what opening says")
    begun.set()
    finish(late.supervisor)
    assert late.supervisor.error is None
    assert late.shared.indices()[-1] == 39
    assert len(late.shared.indices()) >= 39  # except the frame that waited for it
    assert sum(map(len, late.own.batches)) >= 39


def test_join_waits_for_opening_and_a_refused_engine_is_closed() -> None:
    hold, wide, begun = threading.Event(), SizedEngine(WIDE), threading.Event()

    def open_it() -> Engine:
        begun.set()
        wait_for(hold)
        return wide

    def refuse(opened: Sequence[OpenedReplica]) -> None:
        raise EngineError("the lane no longer exists")

    errors: list[VisionInferError] = []
    late = LateEngine(Path("x.onnx"), EngineRequest(), lambda *_: (open_it(), None), refuse, errors.append, print)
    threads = [threading.Thread(target=late.want) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(begun)
    hold.set()
    late.join()
    assert wide.closed.is_set()
    assert [error.message for error in errors] == ["the lane no longer exists"]
    for thread in threads:
        thread.join(LONG_S)
    late.want()  # after the end it does nothing


def test_stopping_during_opening_finishes_decoded_frames() -> None:
    hold, wide = threading.Event(), SizedEngine(WIDE)

    def open_it() -> Engine:
        wait_for(hold)
        return wide

    source = SizedSource(0, 100_000, WIDE)
    late = Late(open_it, source)
    wait_for(source.opened)
    late.supervisor.stop()
    threading.Timer(0.05, hold.set).start()
    close(late.supervisor)
    indices = late.shared.indices()
    assert indices == list(range(len(indices)))


@pytest.fixture
def two_sizes(tmp_path: Path) -> Path:
    """A folder with a model that has two input sizes, 32 × 32 and half as high."""
    graph = write_tiny(tmp_path / "models")
    wide = TINY.model_copy(update={"input": InputSize(width=32, height=16)})
    onnx.save(tiny_model(card=wide), graph.with_name("model-16x32.onnx"))
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        (((64, 32),), ["model-16x32.onnx"]),
        (((64, 64),), ["model.onnx"]),
        (((64, 32), (64, 64)), ["model-16x32.onnx", "model.onnx"]),
    ],
)
def test_a_run_opens_only_the_engines_that_its_sources_need(
    two_sizes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sizes: tuple[tuple[int, int], ...],
    wanted: list[str],
) -> None:
    opened: list[str] = []
    plain = opening.open_quickly

    def noted(path: Path, request: EngineRequest, on_message: Callable[[str], None]) -> tuple[Engine, WarmStart | None]:
        opened.append(path.name)
        on_message(f"{path.stem}: the fastest")
        return plain(path, request, on_message)

    monkeypatch.setattr(opening, "open_quickly", noted)
    sources = tuple(str(media.excerpt(0, 20, width, height)) for width, height in sizes)
    settings = run_settings(
        sources=sources, model="tiny", model_dir=two_sizes, engine="onnxruntime-cpu-fp32", out=(str(tmp_path / "rows.jsonl"),)
    )
    summary = run(settings, threading.Event())
    assert (summary.frames, summary.exit_status) == (20 * len(sizes), 0)
    assert opened == wanted
    inputs = {"model.onnx": "32x32", "model-16x32.onnx": "32x16"}
    reasons = [reason for reason in summary.engine_reasons if "the fastest" in reason]
    assert reasons == [f"{inputs[name]} input: {Path(name).stem}: the fastest" for name in wanted]
    assert summary.engine == "onnxruntime-cpu-fp32"


def test_python_opens_the_same_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    for name, height in (("model-16x32.onnx", 16), ("model.onnx", 32)):
        card = parse_card({"name": "tiny", "input": {"width": 32, "height": height}, "iou": None}, name)
        (tmp_path / "tiny" / "model.yaml").write_text(card_to_yaml(card))
        tiny_graph(tmp_path / "tiny" / name, card, image=("images", onnx.TensorProto.UINT8, ("batch", height, 32, 3)))
    opened: list[str] = []
    plain = opening.open_quickly

    def noted(path: Path, request: EngineRequest, on_message: Callable[[str], None]) -> tuple[Engine, WarmStart | None]:
        opened.append(path.name)
        return plain(path, request, on_message)

    monkeypatch.setattr(opening, "open_quickly", noted)
    detector = Detector("tiny", model_dir=tmp_path, engine="onnxruntime-cpu-fp32")
    results = list(Pipeline(detector).run(str(media.excerpt(0, 20, 64, 32)), str(media.excerpt(0, 20, 64, 64))))
    assert len(results) == 40
    assert opened == ["model-16x32.onnx", "model.onnx"]


def test_an_input_that_cannot_be_opened_ends_the_run_with_its_reason(two_sizes: Path, tmp_path: Path) -> None:
    model = onnx.load(two_sizes / "tiny" / "model.onnx")
    model.graph.node[4].op_type = "Nonsense"  # no runtime knows the operator; without a runtime this cannot be detected
    onnx.save(model, two_sizes / "tiny" / "model.onnx")
    sources = tuple(str(media.excerpt(0, 20, *size)) for size in ((64, 32), (64, 64)))
    settings = run_settings(
        sources=sources, model="tiny", model_dir=two_sizes, engine="onnxruntime-cpu-fp32", out=(str(tmp_path / "rows.jsonl"),)
    )
    with pytest.raises(ModelError, match=r"model\.onnx"):
        run(settings, threading.Event())
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) <= 20  # the rows before it are complete


def test_interrupting_a_run_waits_for_no_engine(two_sizes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = opening.open_quickly

    def slow(path: Path, request: EngineRequest, on_message: Callable[[str], None]) -> tuple[Engine, WarmStart | None]:
        if path.name == "model.onnx":
            assert wanted.wait(LONG_S)
        return plain(path, request, on_message)

    def interrupt(*_: object) -> bool:
        threading.Timer(0.05, wanted.set).start()
        raise KeyboardInterrupt

    wanted = threading.Event()
    monkeypatch.setattr(opening, "open_quickly", slow)
    monkeypatch.setattr(offline, "_wait", interrupt)
    sources = tuple(str(media.excerpt(0, 100, *size)) for size in ((64, 32), (64, 64)))
    settings = run_settings(sources=sources, model="tiny", model_dir=two_sizes, engine="onnxruntime-cpu-fp32")
    with pytest.raises(KeyboardInterrupt):
        run(settings, threading.Event())


def test_the_size_of_a_file_is_read_from_its_header(tmp_path: Path) -> None:
    image = media.write_jpeg(tmp_path / "a.jpg", np.zeros((30, 50, 3), np.uint8))
    broken = tmp_path / "b.mp4"
    broken.write_bytes(b"no video")
    sources = (str(media.excerpt(0, 20, 64, 32)), str(image), str(broken), "http://127.0.0.1:9/x.mp4", "-")
    sizes = [size_in_header(find_sources([source]).specs[0]) for source in sources]
    assert sizes == [Size(64, 32), Size(50, 30), None, None, None]
