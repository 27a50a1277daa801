"""Engines on a device: batches are lent, submitted and collected in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.device_world import SIZES, World, brightness, fill
from tests.support.gpu import needs_torch_cuda
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.core.image import Surface
from vision_infer.engine.engine import Loan, Ticket
from vision_infer.engine.gpu.device_buffers import DeviceSlot

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


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
