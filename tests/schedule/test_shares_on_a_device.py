"""Fairness, measured on a device: shares of engine time, and how long a stream waits for its turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.schedule.device import MS, Device, Network, Stream

HEAVY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NETWORKS = st.builds(
    Network,
    batch_ns=st.integers(0, 5 * MS),
    frame_ns=st.integers(2 * MS, 25 * MS),
    sizes=st.sampled_from([(1,), (1, 2), (1, 2, 4), (2,), (1, 4), (3,)]),
    spread=st.sampled_from([0.0, 0.2, 0.6]),
)
WEIGHTS = st.sampled_from([0.5, 1.0, 1.5, 2.0])


@dataclass(frozen=True)
class Resident:
    """Always has frames waiting."""

    lane: int
    weight: float


@dataclass(frozen=True)
class Visitor:
    """Joins and leaves, and has frames from time to time."""

    lane: int
    weight: float
    live: bool
    joins_ns: int
    stays_ns: int
    period_ns: int
    burst: int


RESIDENTS = st.builds(Resident, st.integers(0, 2), WEIGHTS)
VISITORS = st.builds(
    Visitor,
    lane=st.integers(0, 2),
    weight=st.sampled_from([0.1, 1.0, 5.0]),
    live=st.booleans(),
    joins_ns=st.integers(0, 3000 * MS),
    stays_ns=st.integers(1, 3000 * MS),
    period_ns=st.integers(MS, 300 * MS),
    burst=st.integers(1, 12),
)


def arrivals(device: Device, name: str, period_ns: int, burst: int) -> Callable[[], None]:
    def arrive() -> None:
        if name in device.streams:
            for _ in range(burst):
                device.offer(name)
            device.at(device.now_ns + period_ns, arrive)

    return arrive


def visit(device: Device, name: str, lane: str, visitor: Visitor) -> None:
    def join() -> None:
        device.join(name, lane, visitor.weight, live=visitor.live)
        arrivals(device, name, visitor.period_ns, visitor.burst)()

    device.at(visitor.joins_ns, join)
    device.at(visitor.joins_ns + visitor.stays_ns, lambda: device.leave(name))


def populate(device: Device, residents: list[Resident], visitors: list[Visitor]) -> list[tuple[Stream, float]]:
    """Add all streams; return the backlogged ones with their weights."""
    names = list(device.networks)
    for number, resident in enumerate(residents):
        device.join(f"resident-{number}", names[resident.lane % len(names)], resident.weight, backlogged=True)
    for number, visitor in enumerate(visitors):
        visit(device, f"visitor-{number}", names[visitor.lane % len(names)], visitor)
    return [(device.streams[f"resident-{number}"], resident.weight) for number, resident in enumerate(residents)]


def most_turns(weight: float, residents: list[Resident], visitors: list[Visitor], in_flight: int) -> float:
    """Return the maximum number of full batches that the device runs while a stream waits for its turn.

    The stream can be ahead of its share by the batch that it rode in, a full batch, and those in flight; each other stream can
    be behind by the lag that a lane forgets.
    """
    weights = [resident.weight for resident in residents] + [visitor.weight for visitor in visitors]
    return (2 + in_flight) * sum(weights) / weight + 6 * len(weights) + in_flight


@HEAVY
@given(
    st.lists(NETWORKS, min_size=1, max_size=3),
    st.lists(RESIDENTS, min_size=2, max_size=4),
    st.lists(VISITORS, max_size=5),
    st.integers(1, 4),
    st.integers(0, 999),
    st.integers(1, 2),
)
def test_backlogged_streams_share_by_weight_and_none_starves(
    networks: list[Network], residents: list[Resident], visitors: list[Visitor], in_flight: int, seed: int, devices: int
) -> None:
    lanes = {f"lane-{number}": network for number, network in enumerate(networks)}
    device = Device(in_flight, lanes, seed, slower=[1.0] * (devices - 1))
    in_flight *= devices
    kept = populate(device, residents, visitors)
    full_ns = max(network.full_ns for network in networks)
    enough_ns = (30 + 10 * in_flight) * full_ns
    device.run(lambda: all(stream.engine_ns >= enough_ns for stream, _ in kept))

    fair_ns = sum(stream.engine_ns for stream, _ in kept) / sum(weight for _, weight in kept)
    for stream, weight in kept:
        assert stream.engine_ns / weight == pytest.approx(fair_ns, rel=0.1)
        assert stream.longest_ns <= most_turns(weight, residents, visitors, in_flight) * full_ns


@settings(HEAVY, max_examples=20)
@given(
    st.lists(st.tuples(NETWORKS, st.integers(1, 4)), min_size=1, max_size=3),
    st.lists(RESIDENTS, min_size=2, max_size=4),
    st.lists(VISITORS, max_size=5),
    st.integers(0, 999),
    st.lists(st.sampled_from([1.0, 3.0]), max_size=2),
)
def test_no_stream_starves_if_lanes_have_limits(
    networks: list[tuple[Network, int]], residents: list[Resident], visitors: list[Visitor], seed: int, slower: list[float]
) -> None:
    """While one lane is limited, the others use the rest of the devices."""
    in_flight = 4
    lanes = {f"lane-{number}": network for number, (network, _) in enumerate(networks)}
    device = Device(in_flight, lanes, seed, {f"lane-{number}": limit for number, (_, limit) in enumerate(networks)}, slower)
    in_flight *= 1 + len(slower)
    kept = populate(device, residents, visitors)
    full_ns = max(network.full_ns for network in lanes.values()) * max(1.0, *slower, 1.0)
    device.run(lambda: device.spent_ns >= 200 * full_ns and device.now_ns >= 7_000 * MS)
    waits = device.waits_ns()
    for number, visitor in enumerate(visitors):
        assert f"visitor-{number}" not in waits, "it has left"
        assert visitor.joins_ns + visitor.stays_ns <= device.now_ns
    for number, (_, weight) in enumerate(kept):
        most_ns = in_flight * most_turns(weight, residents, visitors, in_flight) * full_ns
        assert waits[f"resident-{number}"] <= most_ns


@pytest.mark.parametrize("in_flight", [1, 2, 4])
def test_equal_streams_take_turns(in_flight: int) -> None:
    device = Device(in_flight, {"lane": Network(0, 10 * MS, (1,))}, 0)
    for number in range(8):
        device.join(f"stream-{number}", "lane", 1.0, backlogged=True)
    device.run(lambda: device.now_ns >= 10_000 * MS)
    assert all(stream.longest_ns <= (8 + in_flight) * 10 * MS for stream in device.streams.values())
    served = [stream.served for stream in device.streams.values()]
    assert max(served) - min(served) <= 1


def test_a_large_and_a_small_model_share_time_and_not_frames() -> None:
    device = Device(2, {"heavy": Network(0, 50 * MS, (1,)), "light": Network(0, 2 * MS, (1, 2, 4, 8))}, 0)
    device.join("heavy", "heavy", 1.0, backlogged=True)
    device.join("light", "light", 1.0, backlogged=True)
    device.run(lambda: device.now_ns >= 20_000 * MS)
    heavy, light = device.streams["heavy"], device.streams["light"]
    assert heavy.engine_ns == pytest.approx(light.engine_ns, rel=0.05)
    assert light.served > 20 * heavy.served


def test_a_stream_that_is_not_due_does_not_ride_along_at_the_cost_of_another_lane() -> None:
    """The other stream of its lane is always due, and there is always a free slot in its batch."""
    device = Device(1, {"one": Network(0, 10 * MS, (1, 4)), "other": Network(0, 10 * MS, (1,))}, 0)
    device.join("due", "one", 20.0, live=True)
    device.join("rider", "one", 1.0, backlogged=True)
    device.join("far", "other", 1.0, backlogged=True)
    device.at(0, arrivals(device, "due", MS, 1))
    device.run(lambda: device.streams["far"].engine_ns >= 5_000 * MS)
    assert device.streams["rider"].engine_ns == pytest.approx(device.streams["far"].engine_ns, rel=0.1)
    assert device.streams["due"].engine_ns > 3 * device.streams["far"].engine_ns


def test_riding_in_unused_slots_is_free() -> None:
    """A stream of low weight rode along for a minute on an idle device; it has no debt from that."""
    device = Device(1, {"lane": Network(10 * MS, MS, (1, 2))}, 0)
    device.join("heavy", "lane", 1.0, live=True)
    device.join("light", "lane", 0.01, live=True)
    for name in ("heavy", "light"):
        device.at(0, arrivals(device, name, 40 * MS, 1))
    device.run(lambda: device.now_ns >= 60_000 * MS)
    device.join("new", "lane", 0.01, backlogged=True)
    device.streams["light"].longest_ns = 0
    device.run(lambda: device.now_ns >= 90_000 * MS)
    assert device.streams["light"].longest_ns <= 250 * MS


@pytest.mark.parametrize("live", [False, True])
def test_a_lane_at_its_own_limit_collects_no_credit(live: bool) -> None:
    """The lane may run one batch of four. Neither a stream that joins it later nor the other lane pays for that."""
    network = Network(0, 10 * MS, (1,))
    device = Device(4, {"limited": network, "free": network}, 0, {"limited": 1})
    device.join("old", "limited", 1.0, backlogged=True)
    device.join("free", "free", 1.0, backlogged=True)
    device.run(lambda: device.now_ns >= 60_000 * MS)
    assert device.streams["free"].engine_ns == pytest.approx(3 * device.streams["old"].engine_ns, rel=0.01)

    device.join("late", "limited", 1.0, live=live, backlogged=not live)
    device.at(device.now_ns, arrivals(device, "late", MS, 1))
    before = device.streams["old"].engine_ns
    device.run(lambda: device.now_ns >= 70_000 * MS)
    late = device.streams["late"]
    assert late.longest_ns <= 10 * 4 * 10 * MS
    assert late.engine_ns == pytest.approx(device.streams["old"].engine_ns - before, rel=0.1)

    device.leave("late")
    for number in range(8):
        device.join(f"new-{number}", "free", 1.0, backlogged=True)
    start = {name: stream.engine_ns for name, stream in device.streams.items()}
    device.run(lambda: device.now_ns >= 90_000 * MS)
    used = [stream.engine_ns - start[name] for name, stream in device.streams.items()]
    assert used == pytest.approx([sum(used) / 10] * 10, rel=0.1)


def test_a_weight_can_be_changed() -> None:
    device = Device(2, {"lane": Network(0, 10 * MS, (1,))}, 0)
    device.join("a", "lane", 1.0, backlogged=True)
    device.join("b", "lane", 1.0, backlogged=True)
    device.run(lambda: device.now_ns >= 5_000 * MS)
    device.batcher.shares.set_weight("a", 4.0)
    start = {name: stream.engine_ns for name, stream in device.streams.items()}
    device.run(lambda: device.now_ns >= 10_000 * MS)
    used = {name: stream.engine_ns - start[name] for name, stream in device.streams.items()}
    assert used["a"] == pytest.approx(4 * used["b"], rel=0.05)


def test_the_first_batches_of_unknown_cost_are_accounted_for() -> None:
    """One stream's model takes a second for its first batch: the other stream gets that second back."""
    device = Device(1, {"lane": Network(0, 1000 * MS, (1,)), "other": Network(0, 10 * MS, (1,))}, 0)
    device.join("slow", "lane", 1.0, backlogged=True)
    device.join("quick", "other", 1.0, backlogged=True)
    device.run(lambda: device.streams["slow"].served == 20)
    assert device.streams["quick"].engine_ns == pytest.approx(device.streams["slow"].engine_ns, rel=0.1)
