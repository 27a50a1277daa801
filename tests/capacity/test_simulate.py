"""The simulation of the service, in cases with known results."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_infer.capacity.simulate import SimulatedStreams, StepCosts, simulate

COSTS = StepCosts(decode_ms=4, convert_ms=2, engine_ms={1: 20}, rest_ms=1, in_flight=2)


def test_a_single_stream_does_not_wait() -> None:
    found = simulate(COSTS, SimulatedStreams(1, source_fps=10, fps=10), cores=2, seconds=3)
    assert found.results_per_s == pytest.approx(10, abs=0.4)
    assert found.age_p50_ms == pytest.approx(27, abs=0.1)
    assert found.age_p99_ms == pytest.approx(27, abs=0.1)
    assert found.cpu == pytest.approx(0.27 / 2, rel=0.1)
    assert found.shares["compute"] == pytest.approx(0.2 / 2, rel=0.1)


def test_a_core_can_be_faster_alone_and_threads_add_a_delay() -> None:
    found = simulate(replace(COSTS, alone=1.5, delay_ms=1), SimulatedStreams(1, 10, 10), cores=2, seconds=3)
    assert found.age_p50_ms == pytest.approx(27 / 1.5 + 1, abs=0.1)


def test_overload_delivers_the_capacity_with_bounded_ages() -> None:
    streams = SimulatedStreams(16, source_fps=10, fps=10)
    found = simulate(COSTS, streams, cores=2, seconds=10)
    left = 2 - 16 * 10 * 0.004
    assert found.results_per_s == pytest.approx(left / 0.023, rel=0.05), "decoding comes first, the rest infers"
    assert found.delivered == pytest.approx(found.results_per_s / 160, rel=0.01)
    assert found.cpu > 0.98
    longer = simulate(COSTS, streams, cores=2, seconds=20)
    assert longer.age_p99_ms < 1.3 * found.age_p99_ms < 500, "newest wins: nothing queues up"


def test_frames_in_progress_at_the_end_are_not_missing() -> None:
    for fps in (0.5, 0.7, 1.5, 2.5, 3.3):
        found = simulate(COSTS, SimulatedStreams(4, source_fps=15, fps=fps), cores=2, seconds=3)
        assert found.delivered == 1, fps


PATTERN_1080P = (
    *(3.73, 3.40, 3.12, 0.72, 0.21, 0.20, 0.19, 0.18, 0.18, 0.18, 0.19, 0.20, 0.23, 0.43, 0.71),
    *(0.96, 1.29, 1.35, 1.35, 1.31, 1.27, 0.99, 0.87, 0.72, 0.78, 0.90, 0.94, 1.06, 1.14, 1.23),
)
"""The relative decoding times of the sample clip at 1080p, measured on two cores of an AMD EPYC on 2026-11-29."""


def test_key_frames_explain_the_slowest_results() -> None:
    """A benchmark of 1080p with INT8 on such a machine, of 2026-11-26, measured 23 and 39 ms (50% and 95%) for one stream.

    With seven streams, whose key frames coincided, it measured 147 ms. Without the pattern, the simulation expected 28 and 95 ms.
    """
    flat = StepCosts(7.05, 2.0, {1: 13.7}, 0.3, in_flight=2, spread=(0.8, 0.95, 1.0, 1.05, 1.3))
    real = replace(flat, decode_pattern=PATTERN_1080P)
    found = simulate(real, SimulatedStreams(1, source_fps=15, fps=10), cores=2, seconds=10, seeds=4)
    assert found.age_p50_ms == pytest.approx(23, rel=0.1)
    assert found.age_p95_ms == pytest.approx(39, rel=0.15)
    edge, without = (simulate(costs, SimulatedStreams(7, 15, 10), cores=2, seconds=10, seeds=4) for costs in (real, flat))
    assert edge.cpu == pytest.approx(without.cpu, rel=0.02), "the mean cost is the same"
    assert edge.age_p95_ms > 1.5 * without.age_p95_ms
    assert edge.results_per_s < without.results_per_s


def test_unwanted_frames_are_decoded_but_not_inferred() -> None:
    found = simulate(COSTS, SimulatedStreams(2, source_fps=30, fps=10), cores=2, seconds=5)
    assert found.results_per_s == pytest.approx(20, rel=0.05)
    assert found.shares["decode"] == pytest.approx(2 * 30 * 0.004 / 2, rel=0.05)


def test_gated_frames_give_results_without_the_engine() -> None:
    everything, half = (simulate(COSTS, SimulatedStreams(4, 10, 10, gated=gated), cores=2, seconds=10) for gated in (0.0, 0.5))
    assert half.results_per_s == pytest.approx(everything.results_per_s, rel=0.05)
    assert half.shares["compute"] == pytest.approx(everything.shares["compute"] / 2, rel=0.15)


def test_an_accelerator_fills_batches_and_does_not_use_the_cpu() -> None:
    costs = StepCosts(decode_ms=0.5, convert_ms=0.2, engine_ms={1: 4, 8: 8}, rest_ms=0.2, in_flight=2, accelerator=True)
    few = simulate(costs, SimulatedStreams(4, 10, 10, batch=8), cores=4, seconds=4)
    many = simulate(costs, SimulatedStreams(60, 10, 10, batch=8), cores=4, seconds=4)
    assert few.mean_batch < 1.5 < many.mean_batch
    assert many.delivered > 0.98
    assert many.accelerator > 0.5 > many.cpu
    one_by_one = simulate(costs, SimulatedStreams(60, 10, 10, batch=1), cores=4, seconds=4)
    assert one_by_one.delivered < 0.6, "250 pictures a second are not enough for 600"


def test_decoding_hardware_is_a_separate_resource() -> None:
    costs = StepCosts(decode_ms=2, convert_ms=0.1, engine_ms={1: 1}, rest_ms=0.1, accelerator=True, decoders=1)
    found = simulate(costs, SimulatedStreams(40, 10, 10, batch=1), cores=4, seconds=3)
    assert found.decoders == pytest.approx(0.8, rel=0.1)
    assert found.shares["decode"] == 0


def test_batch_times_are_interpolated() -> None:
    costs = StepCosts(1, 1, {2: 10.0, 8: 40.0}, 1)
    assert [costs.batch_ms(size) for size in (1, 2, 5, 8, 16)] == [5, 10, 25, 40, 80]


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 12),
    source=st.sampled_from([5.0, 10.0, 25.0]),
    fps=st.sampled_from([2.0, 5.0, 10.0]),
    engine=st.floats(0.5, 80),
    cores=st.sampled_from([1.0, 2.0, 3.5]),
    batch=st.integers(1, 4),
)
def test_every_result_belongs_to_a_frame(count: int, source: float, fps: float, engine: float, cores: float, batch: int) -> None:
    costs = StepCosts(2, 1, {1: engine, 4: 3 * engine}, 0.5, in_flight=2)
    found = simulate(costs, SimulatedStreams(count, source, fps, batch), cores, seconds=2, seeds=1)
    wanted = count * min(source, fps)
    assert found.results_per_s <= wanted * 1.3 + 2 * count, "at most the wanted rate, within the ends of the window"
    assert 0 <= found.cpu <= 1.0001
    assert 0 <= found.mean_batch <= batch
    if found.results_per_s:
        assert found.age_p50_ms >= 2 + 1 + min(engine, 3 * engine / 4) + 0.5 - 0.01
