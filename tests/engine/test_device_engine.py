"""Engines on a device: slots, batches in flight, padding, graphs and failures; in host memory, and on a real GPU."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.graphs import tiny_graph
from tests.engine.host_device import FailingModel, HostDevice, MeanModel
from tests.engine.surfaces import make_surface
from tests.support.gpu import needs_torch_cuda
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import DeviceLostError, EngineError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.core.image import Surface
from vision_infer.engine.engine import Loan, Ticket
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.gpu.device_buffers import DeviceBuffers, DeviceSlot, host_runs
from vision_infer.engine.gpu.device_engine import DeviceEngine, batch_sizes_up_to

SIZES = (1, 2, 4, 8)
KINDS = ["host", pytest.param("cuda", marks=[pytest.mark.gpu, needs_torch_cuda])]


class World:
    """An engine on a device that returns the brightness of its images.

    Args:
        kind: ``host`` or ``cuda``.
        card: The card of the model.
        folder: The folder for the graph.
        seed: Chooses the order of the device's work; None: the order of the calls.
    """

    def __init__(self, kind: Literal["host", "cuda"], card: ModelCard, folder: Path, seed: int | None = None) -> None:
        self.kind = kind
        self.card = card
        self.said: list[str] = []
        self.device: Any
        if kind == "host":
            self.device = HostDevice(None if seed is None else random.Random(seed))
            self._model: Any = MeanModel(self.device, card)
        else:
            from vision_infer.engine.gpu.cuda import cuda_device
            from vision_infer.engine.runtimes.torch_model import TorchModel

            self.device = cuda_device(0)
            path = folder / "tiny.onnx"
            self._model = TorchModel(path if path.exists() else tiny_graph(path, card), "cuda:0")

    def open(self, in_flight: int = 2, largest: int = 1000, recorded: bool = True, graphs: bool = True) -> DeviceEngine:
        """Open the engine."""
        self.model = FailingModel(self._model, largest, recorded)
        return DeviceEngine("x-host-fp32", self.card, self.model, self.device, SIZES, in_flight, self.said.append, graphs)

    @contextmanager
    def surface(self, value: int) -> Iterator[Surface]:
        """Return a gray full-range frame on the device."""
        luma, chroma = np.full((18, 26), value, np.uint8), np.full((9, 13, 2), 128, np.uint8)
        if self.kind == "host":
            yield make_surface(luma, chroma, full_range=True)
            return
        places = [self.device.allocate(plane.nbytes) for plane in (luma, chroma)]
        stream = self.device.make_stream()
        for place, plane in zip(places, (luma, chroma), strict=True):
            self.device.copy_in(place, plane, stream)
        self.device.destroy(stream)
        yield Surface(Size(26, 18), places[0], 26, places[1], 26, 1, 1, True, 0, None)
        for place in places:
            self.device.free(place)


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, card: ModelCard, tmp_path: Path) -> World:
    return World(request.param, card, tmp_path)


def fill(loan: Loan, values: list[int]) -> Loan:
    for slot, value in zip(loan.slots, values, strict=True):
        slot.pixels[:] = value
    return loan


def brightness(engine: DeviceEngine, ticket: Ticket) -> list[float]:
    raw = engine.collect(ticket)
    assert 0 < raw.started_ns <= raw.ended_ns
    return [float(score) * 255 for score in raw.outputs["scores"][:, 0]]


def run(engine: DeviceEngine, values: list[int]) -> list[float]:
    return brightness(engine, engine.submit(fill(engine.lend(len(values)), values)))


def test_each_batch_returns_the_results_of_its_images(world: World) -> None:
    with world.open() as engine:
        engine.warm_up()
        for count in (1, 8, 3, 2, 5, 4, 1):
            values = [20 * count + place for place in range(count)]
            assert run(engine, values) == pytest.approx(values, abs=1e-3)


def test_a_batch_is_padded_to_the_next_size_and_returns_only_its_own_results(world: World) -> None:
    with world.open() as engine:
        before = len(world.model.enqueued)
        assert run(engine, [10, 20, 30]) == pytest.approx([10, 20, 30], abs=1e-3)
        assert world.model.enqueued[before:] == [4]
        for count in (0, 9, -1):
            with pytest.raises(EngineError, match=rf"batches of {count}"):
                engine.lend(count)


def test_every_batch_size_is_recorded_in_every_buffer_during_the_warm_up(world: World) -> None:
    with world.open(in_flight=2) as engine:
        assert run(engine, [1, 2]) == pytest.approx([1, 2], abs=1e-3)
        assert all(not buffer.graphs for buffer in engine._buffers.buffers)
        engine.warm_up()
        assert all(set(buffer.graphs) == set(SIZES) for buffer in engine._buffers.buffers)
        world.model.enqueued.clear()
        for turn in range(4):
            for size in (2, 8, 1, 4):
                loans = [fill(engine.lend(size), [turn + place for place in range(size)]) for _ in range(2)]
                for ticket in [engine.submit(loan) for loan in loans]:
                    assert brightness(engine, ticket) == pytest.approx([turn + place for place in range(size)], abs=1e-3)
        assert world.model.enqueued == []
        engine.warm_up()  # records nothing again
        assert world.model.enqueued == []


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collection_is_off_while_recording_and_then_as_before(card: ModelCard, tmp_path: Path, collecting: bool) -> None:
    world = World("host", card, tmp_path)
    with world.open() as engine:
        if not collecting:
            gc.disable()
        try:
            engine.warm_up()
            assert gc.isenabled() == collecting
        finally:
            gc.enable()
        assert world.said == []


def test_a_host_device_refuses_what_a_recording_does_not_allow(card: ModelCard) -> None:
    """Each rule is broken once: otherwise the other tests would prove nothing."""
    device = HostDevice()
    model, stream, event = MeanModel(device, card), device.make_stream(), device.make_event()
    buffers = DeviceBuffers(device, card.input_size, SIZES, 1, model.outputs)
    buffer = buffers.buffers[0]

    def enqueue(count: int) -> None:
        model.enqueue(count, buffer.images_at, buffer.outputs[count].addresses, stream)

    def run_and_wait(count: int) -> None:
        enqueue(count)
        device.record(event, stream)
        device.synchronize(event)

    run_and_wait(2)
    with pytest.raises(AssertionError, match="garbage collection"):
        device.capture(stream, lambda: enqueue(2))
    gc.disable()
    try:
        graph = device.capture(stream, lambda: enqueue(2))
        device.launch(graph, stream)
        with pytest.raises(AssertionError, match="before it ran once in this shape"):
            device.capture(stream, lambda: enqueue(4))
        with pytest.raises(AssertionError, match="its shape changed"):
            device.launch(graph, stream)
        enqueue(4)
        with pytest.raises(AssertionError, match="waited for"):
            device.capture(stream, lambda: enqueue(4))
        run_and_wait(4)
        device.capture(stream, lambda: enqueue(4))
        with pytest.raises(AssertionError, match="waits while a batch is recorded"):
            device.capture(stream, lambda: device.synchronize(event))
        with pytest.raises(AssertionError, match="allocates memory while a batch is recorded"):
            device.capture(stream, lambda: print(device.allocate(1)))
    finally:
        gc.enable()


def test_graphs_can_be_switched_off_and_some_models_cannot_be_recorded(world: World) -> None:
    for options in ({"graphs": False}, {"recorded": False}):
        fresh = World("host", world.card, Path()) if world.kind == "host" else world
        engine = fresh.open(**options)
        engine.warm_up()
        for value in (1, 2, 3, 4):
            assert run(engine, [value]) == pytest.approx([value], abs=1e-3)
        assert fresh.model.enqueued[-4:] == [1] * 4
        why = "x-host-fp32: batches of 1 and more run without CUDA graphs: the model cannot be recorded"
        assert fresh.said == ([why] if "recorded" in options else [])
        if world.kind == "cuda":
            return
        engine.__exit__(None, None, None)


def test_after_a_failed_recording_batches_run_without_graphs_and_one_message_says_so(world: World) -> None:
    with world.open(in_flight=1) as engine:
        world.model.failures = 1  # while it is recorded
        engine.warm_up()
        for value in (8, 9, 10):
            assert run(engine, [value, value]) == pytest.approx([value, value], abs=1e-3)
        assert world.said == ["x-host-fp32: batches of 1 and more run without CUDA graphs: it failed"]
        assert all(not buffer.graphs for buffer in engine._buffers.buffers)


def test_a_failure_releases_the_buffer(world: World) -> None:
    with world.open(in_flight=1) as engine:
        for _ in range(3):
            world.model.failures = 2
            with pytest.raises(EngineError, match="batch of 2: it failed"):
                run(engine, [1, 2])
            world.model.failures = 0
            assert run(engine, [51, 102]) == pytest.approx([51, 102], abs=1e-3)


def test_at_most_in_flight_buffers_are_lent(world: World) -> None:
    with world.open(in_flight=2) as engine:
        loans = [engine.lend(1), engine.lend(8)]
        with pytest.raises(EngineError, match="all 2 buffers"):
            engine.lend(1)
        engine.release(loans[0])
        with pytest.raises(ValueError, match="released before"):
            engine.release(loans[0])
        assert engine.lend(4).buffer is loans[0].buffer


def test_a_frame_on_the_device_is_not_copied(world: World) -> None:
    box = letterbox(Size(26, 18), Size(32, 32), "stretch", (0, 0, 0))
    with world.open(in_flight=1) as engine, world.surface(200) as surface:
        for _ in range(3):
            loan = fill(engine.lend(4), [10, 20, 30, 40])
            slot = loan.slots[2]
            assert isinstance(slot, DeviceSlot)
            assert slot.write_surface(surface, box)
            assert brightness(engine, engine.submit(loan)) == pytest.approx([10, 20, 200, 40], abs=1e-3)
        assert run(engine, [1, 2, 3, 4]) == pytest.approx([1, 2, 3, 4], abs=1e-3)
        if world.kind == "host":
            assert world.device.copied_in[-3:] == [2 * 32 * 32 * 3, 32 * 32 * 3, 4 * 32 * 32 * 3]


def test_a_frame_is_kept_until_its_batch_is_done_or_released(world: World) -> None:
    box = letterbox(Size(26, 18), Size(32, 32), "center", (9, 9, 9))
    with world.open(in_flight=1) as engine, world.surface(77) as surface:
        for give_up in (True, False):
            loan = engine.lend(1)
            slot: Any = loan.slots[0]
            slot.write_surface(surface, box)
            assert slot.surface == (surface, box)
            if give_up:
                engine.release(loan)
            else:
                engine.collect(engine.submit(loan))
            assert slot.surface is None


def test_a_frame_on_another_device_is_refused(card: ModelCard, tmp_path: Path) -> None:
    world = World("host", card, tmp_path)
    elsewhere = make_surface(np.zeros((2, 2), np.uint8), np.zeros((1, 1, 2), np.uint8), device=1)
    with world.open() as engine:
        slot: Any = engine.lend(1).slots[0]
        assert not slot.write_surface(elsewhere, letterbox(Size(2, 2), Size(32, 32), "stretch", (0, 0, 0)))
        assert slot.surface is None


def test_without_its_kernels_a_device_takes_frames_from_host_memory_and_says_so_once(card: ModelCard, tmp_path: Path) -> None:
    world = World("host", card, tmp_path)
    world.device.problem = "NVRTC is not installed"
    box = letterbox(Size(26, 18), Size(32, 32), "stretch", (0, 0, 0))
    with world.open() as engine, world.surface(200) as surface:
        assert engine.gpu is None, "streams are decoded on the CPU by default"
        for _ in range(3):
            loan = fill(engine.lend(2), [10, 20])
            slot: Any = loan.slots[1]
            assert not slot.write_surface(surface, box)
            assert brightness(engine, engine.submit(loan)) == pytest.approx([10, 20], abs=1e-3)
    assert world.said == ["x-host-fp32: decoded frames go through host memory: NVRTC is not installed"]


def test_without_memory_for_the_largest_batch_smaller_ones_run(world: World) -> None:
    with world.open(largest=2) as engine:
        assert engine.batch_sizes == (1, 2)
        assert run(engine, [5, 6]) == pytest.approx([5, 6], abs=1e-3)
    assert [line.split(":")[1] for line in world.said] == [" batches of 8 are left out", " batches of 4 are left out"]


def test_without_memory_for_the_smallest_batch_opening_fails(world: World) -> None:
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        world.open(largest=0)
    if world.kind == "host":
        assert (world.device.used, world.device.things) == (0, 0)


@pytest.mark.parametrize("call", ["allocate_host", "surface_problem"])
def test_a_device_that_fails_while_an_engine_opens_keeps_nothing_of_it(
    call: str, card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise DeviceLostError("the GPU is no longer available")

    world = World("host", card, tmp_path)
    monkeypatch.setattr(world.device, call, lost)
    with pytest.raises(DeviceLostError):
        world.open()
    assert (world.device.used, world.device.things, world.model.closed) == (0, 0, True)


def test_memory_is_checked_before_it_is_allocated(card: ModelCard, tmp_path: Path) -> None:
    world = World("host", card, tmp_path)
    each = 32 * 32 * 3 + 4 * (4 * 4 + 4 + 4)
    world.device._capacity = 2 * 4 * each + 2 * 3 * 256
    with world.open() as engine:
        assert engine.batch_sizes == (1, 2, 4)
        assert engine.buffer_bytes == 2 * 4 * each
        assert "MB free" in world.said[0]
    assert (world.device.used, world.device.things) == (0, 0)


def test_closing_twice_frees_everything_once(card: ModelCard, tmp_path: Path) -> None:
    world = World("host", card, tmp_path, seed=1)
    engine = world.open()
    engine.warm_up()
    engine.submit(fill(engine.lend(2), [1, 2]))
    for _ in range(2):
        engine.__exit__(None, None, None)
    assert (world.device.used, world.device.things, world.model.closed) == (0, 0, True)
    with pytest.raises(EngineError, match="closed"):
        engine.lend(1)


def test_batch_sizes() -> None:
    assert [batch_sizes_up_to(largest) for largest in (1, 2, 3, 8, 12)] == [
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 4, 8),
        (1, 2, 4, 8, 12),
    ]


@given(st.lists(st.booleans(), max_size=12))
def test_runs_cover_exactly_the_images_in_host_memory(on_device: list[bool]) -> None:
    class Slot:
        def __init__(self, there: bool) -> None:
            self.surface = there or None

    runs = list(host_runs([Slot(there) for there in on_device]))  # type: ignore[misc]
    covered = [place for first, end in runs for place in range(first, end)]
    assert covered == [place for place, there in enumerate(on_device) if not there]
    assert all(first < end for first, end in runs)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(runs))  # the minimum


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("lend"), st.lists(st.integers(0, 255), min_size=1, max_size=8), st.integers(0, 255)),
        st.tuples(st.just("submit"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("collect"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("release"), st.integers(0, 9), st.just(0)),
    ),
    max_size=60,
)


def in_any_order(world: World, actions: list[Any], in_flight: int, surface: Surface, graphs: bool) -> None:
    """After any actions, every batch returns the results of its images, and every buffer comes back."""
    box = letterbox(surface.size, Size(32, 32), "stretch", (0, 0, 0))
    engine = world.open(in_flight)
    if graphs:
        engine.warm_up()
    lent: list[tuple[Loan, list[int]]] = []
    flying: list[tuple[Ticket, list[int]]] = []
    for action, what, more in actions:
        if action == "lend" and len(lent) + len(flying) == in_flight:
            with pytest.raises(EngineError, match="buffers of the engine are lent"):
                engine.lend(len(what))
        elif action == "lend":
            loan, values = fill(engine.lend(len(what)), what), list(what)
            for place, slot in enumerate(loan.slots):
                if more >> place & 1:
                    assert isinstance(slot, DeviceSlot)
                    slot.write_surface(surface, box)
                    values[place] = 200
            lent.append((loan, values))
        elif action == "submit" and lent:
            loan, values = lent.pop(what % len(lent))
            world.model.failures = int(more)
            if more and not graphs:
                with pytest.raises(EngineError, match="it failed"):
                    engine.submit(loan)
            else:
                flying.append((engine.submit(loan), values))
            world.model.failures = 0
        elif action == "collect" and flying:
            ticket, values = flying.pop(what % len(flying))
            assert brightness(engine, ticket) == pytest.approx(values, abs=1e-3)
        elif action == "release" and lent:
            engine.release(lent.pop(what % len(lent))[0])
    for ticket, values in flying:
        assert brightness(engine, ticket) == pytest.approx(values, abs=1e-3)
    for loan, _ in lent:
        engine.release(loan)
    assert len([engine.lend(8) for _ in range(in_flight)]) == in_flight
    for buffer in engine._buffers.buffers:
        assert set(buffer.graphs) == (set(SIZES) if graphs else set())
    engine.__exit__(None, None, None)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS, st.integers(1, 3), st.integers(0, 2**16), st.booleans())
def test_any_order_of_actions(card: ModelCard, actions: list[Any], in_flight: int, seed: int, graphs: bool) -> None:
    world = World("host", card, Path(), seed)
    with world.surface(200) as surface:
        in_any_order(world, actions, in_flight, surface, graphs)
    assert (world.device.used, world.device.things) == (0, 0)


@pytest.mark.gpu
@needs_torch_cuda
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, in_flight=st.integers(1, 3), graphs=st.booleans())
def test_any_order_of_actions_on_a_gpu(card: ModelCard, tmp_path: Path, actions: list[Any], in_flight: int, graphs: bool) -> None:
    world = World("cuda", card, tmp_path)
    with world.surface(200) as surface:
        in_any_order(world, actions, in_flight, surface, graphs)
