"""Engines on a device: slots, batches in flight, padding and failures; in host memory, and on a real GPU."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.device_world import World, brightness, fill, run
from tests.engine.surfaces import make_surface
from tests.support.gpu import needs_torch_cuda
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import DeviceLostError, EngineError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.gpu.device_buffers import DeviceSlot, host_runs
from vision_infer.engine.gpu.device_engine import batch_sizes_up_to

KINDS = ["host", pytest.param("cuda", marks=[pytest.mark.gpu, needs_torch_cuda])]


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, card: ModelCard, tmp_path: Path) -> World:
    return World(request.param, card, tmp_path)


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
