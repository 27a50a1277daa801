"""Engines on a device: recording batches as graphs, and running without them."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from tests.engine.device_world import SIZES, World, brightness, fill, run
from tests.engine.host_device import HostDevice
from tests.engine.host_models import MeanModel
from tests.support.gpu import needs_torch_cuda
from vision_infer.core.card import ModelCard
from vision_infer.engine.gpu.device_buffers import DeviceBuffers

KINDS = ["host", pytest.param("cuda", marks=[pytest.mark.gpu, needs_torch_cuda])]


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, card: ModelCard, tmp_path: Path) -> World:
    return World(request.param, card, tmp_path)


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
