"""Measuring speed in turns, with a simulated clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.graphs import tiny_graph
from tests.engine.runtimes import RUNTIMES, open_with
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.engine import Loan, RawResults, Ticket
from vision_infer.engine.measure import SpeedRounds, estimate, faster, measure_opening, measure_speed, resident_bytes
from vision_infer.engine.runtimes.null import NullEngine

MS = 1_000_000


class Time:
    """A clock that advances only while an engine works."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.turns: list[str] = []

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


class Timed(NullEngine):
    """An engine with a given time per image, ms, that records its turns."""

    def __init__(self, name: str, card: ModelCard, ms: list[int], time: Time, **options: Any) -> None:
        super().__init__(card, clock=time, **options)
        self.name = name
        self._ms, self._time, self._number = ms, time, 0
        self.seen: set[int] = set()

    def submit(self, loan: Loan) -> Ticket:
        self._time.now_ns += self._ms[self._number % len(self._ms)] * len(loan.slots) * MS
        self._number += 1
        self._time.turns.append(self.name)
        self.seen.update(int(slot.pixels[0, 0, 0]) for slot in loan.slots)
        return super().submit(loan)


def test_the_speed_follows_from_the_clock(card: ModelCard) -> None:
    time = Time()
    engines = {"fast": Timed("fast", card, [10], time), "slow": Timed("slow", card, [20, 30], time)}
    found = measure_speed(engines, rounds=4, round_s=0.1, clock=time, cpu_ns=lambda: 2 * time.now_ns)
    assert found["fast"].fps == pytest.approx([100] * 4)
    assert found["fast"].cpu_ms == pytest.approx([20] * 4)
    assert (found["fast"].percentile_ms(0.5), found["fast"].percentile_ms(0.95)) == (10, 10)
    assert found["slow"].fps == pytest.approx([40] * 4)
    assert (found["slow"].percentile_ms(0.4), found["slow"].percentile_ms(0.95)) == (20, 30)
    assert found["slow"].shares == pytest.approx([2.0] * 4)
    compared = faster(found["fast"], found["slow"])
    assert compared.times.median == pytest.approx(2.5)
    assert not compared.by_cpu


def test_engines_run_in_turns_and_the_order_is_reversed(card: ModelCard) -> None:
    time = Time()
    engines = {name: Timed(name, card, [10], time) for name in "abc"}
    measure_speed(engines, rounds=3, round_s=0.02, clock=time, cpu_ns=time.monotonic_ns)
    order = [name for number, name in enumerate(time.turns) if number == 0 or time.turns[number - 1] != name]
    assert "".join(order) == "abcbabc"  # 'c' and 'a' run twice in a row where the order is reversed


def test_a_round_has_at_least_one_batch(card: ModelCard) -> None:
    time = Time()
    engine = Timed("slow", card, [900], time, batch_sizes=(1, 2))
    found = measure_speed({"slow": engine}, batch=2, rounds=2, round_s=0.001, clock=time, cpu_ns=time.monotonic_ns)
    assert found["slow"].latencies_ms == [1800, 1800]
    assert found["slow"].fps == pytest.approx([2 / 1.8] * 2)


def test_engines_run_the_given_frames(card: ModelCard) -> None:
    time = Time()
    engine = Timed("a", card, [10], time, batch_sizes=(1, 2, 3))
    frames = [np.full((32, 32, 3), value, np.uint8) for value in (10, 20)]
    measure_speed({"a": engine}, frames, batch=3, rounds=1, round_s=0, clock=time, cpu_ns=time.monotonic_ns)
    assert engine.seen == {10, 20}


def test_a_batch_size_that_an_engine_does_not_run(card: ModelCard) -> None:
    with pytest.raises(EngineError, match="batches of 4"):
        measure_speed({"a": NullEngine(card)}, batch=4)


class Failing(NullEngine):
    def collect(self, ticket: Ticket) -> RawResults:
        super().collect(ticket)
        raise RuntimeError("broken")


def test_a_failure_ends_the_measurement(card: ModelCard) -> None:
    with pytest.raises(EngineError, match="broken"):
        measure_speed({"a": Failing(card, in_flight=3)}, rounds=1)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_real_engines_with_several_batches_in_flight(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    graph = tiny_graph(tmp_path / "x.onnx", card)
    engine, seconds, grown = measure_opening(lambda: open_with(runtime, graph, workers=2))
    with engine:
        assert seconds > 0
        assert grown is None or grown >= 0
        found = measure_speed({"it": engine}, rounds=2, round_s=0.05)["it"]
        assert len(found.fps) == 2
        assert min(found.fps) > 0
        assert len(found.latencies_ms) >= 4
        assert [engine.lend(1), engine.lend(1)]


def test_an_engine_that_does_not_warm_up_is_closed(card: ModelCard) -> None:
    closed = []

    class Cold(NullEngine):
        def warm_up(self) -> None:
            raise EngineError("too cold")

        def __exit__(self, *_: object) -> None:
            closed.append(True)

    with pytest.raises(EngineError, match="too cold"):
        measure_opening(lambda: Cold(card))
    assert closed


def test_the_interval_of_the_median() -> None:
    steady, shaky = estimate([10.0] * 7), estimate([5.0, 8.0, 9.0, 10.0, 11.0, 14.0, 20.0])
    assert (steady.median, steady.low, steady.high) == (10, 10, 10)
    assert shaky.low < shaky.median == 10 < shaky.high
    assert estimate([5.0, 8.0, 9.0]) == estimate([5.0, 8.0, 9.0])


@pytest.mark.parametrize(("share", "times"), [(0.95, 2.0), (0.5, 1.5)])
def test_on_a_busy_machine_cpu_time_is_compared(share: float, times: float) -> None:
    mine = SpeedRounds(1, fps=[20, 40, 60], cpu_ms=[10, 20, 10], shares=[0.9, 0.9, 0.9])
    other = SpeedRounds(1, fps=[10, 20, 30], cpu_ms=[15, 30, 15], shares=[share, share, 0.1])
    compared = faster(mine, other)
    assert compared.times.median == pytest.approx(times)
    assert compared.by_cpu == (share < 0.8)


def test_memory_of_this_process(tmp_path: Path) -> None:
    assert (resident_bytes() or 10**7) >= 10**6
    assert resident_bytes(tmp_path / "none") is None
    (tmp_path / "statm").write_text("odd")
    assert resident_bytes(tmp_path / "statm") is None
