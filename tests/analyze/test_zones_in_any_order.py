"""Properties of zones and lines for random tracks, positions and times."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from tests.analyze.walking import SIZE, VALIDATOR, facts, line, room, standing, walk, watch
from vision_infer.analyze.places import AGAIN, CLEAR
from vision_infer.analyze.zones import Zones
from vision_infer.config.zones import ZoneSettings
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.core.scene_event import SceneEvent

POSITIONS = st.tuples(st.integers(0, 16).map(lambda step: step * 8.0), st.integers(0, 16).map(lambda step: step * 4.0))
STEPS = st.sampled_from([0.0, 0.04, 0.1, 0.5, 1.9, 2.0, 7.0])
JUMPS = st.one_of(STEPS, st.sampled_from([-3.0, -1e9, 1e6, 1e300, math.inf, -math.inf, math.nan]))
FRAMES = st.dictionaries(st.integers(1, 5), POSITIONS, max_size=5)


def check(zones: Zones, updates: Iterable[tuple[Detections, float]]) -> None:
    """Check that visits alternate, and that counts equal the events."""
    inside: Counter[tuple[str, int]] = Counter()
    dwelt: set[tuple[str, int]] = set()
    crossed: Counter[tuple[str, str]] = Counter()

    def note(events: Iterable[SceneEvent]) -> None:
        for event in events:
            VALIDATOR.validate(event.to_dict())
            key = (event.place, event.track_id)
            if event.kind == "cross":
                assert event.direction is not None
                crossed[event.place, event.direction] += 1
            elif event.kind == "dwell":
                assert key not in dwelt
                assert inside[key] == 1
                dwelt.add(key)
            else:
                assert inside[key] == (event.kind == "leave")
                inside[key] += 1 if event.kind == "enter" else -1
                dwelt.discard(key)
        present = Counter(place for place, _ in inside.elements())
        assert zones.occupancy() == {place: present[place] for place in zones.occupancy()}
        assert zones.counts() == {place: (crossed[place, "in"], crossed[place, "out"]) for place in zones.counts()}

    for detections, now_s in updates:
        note(zones.update(detections, SIZE, now_s))
    note(zones.leave_all())
    assert not +inside


@given(
    st.lists(st.tuples(JUMPS, FRAMES), max_size=25),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from([None, 0.5, 3.0]),
    st.integers(1, 4),
    st.sampled_from([0.0, 30.0]),
)
def test_visits_alternate_and_counts_add_up_whatever_the_times(
    frames: list[tuple[float, dict[int, tuple[float, float]]]], min_s: float, dwell_s: float | None, most: int, side: float
) -> None:
    zones = watch(
        {"room": room(min_s=min_s, dwell_s=dwell_s), "left": room(polygon=[[0, 0], [50, 0], [50, 64]], min_s=0)},
        {"gate": line((64, 64), (64, 0)), "step": line((20, 30), (90, 44), anchor="center")},
        max_tracks=most,
    )
    now_s, updates = 0.0, []
    for step_s, spots in frames:
        now_s = now_s + step_s if math.isfinite(now_s + step_s) else step_s
        updates.append((standing(*((number, x, y) for number, (x, y) in spots.items()), side=side), now_s))
        now_s = now_s if math.isfinite(now_s) else 0.0
    check(zones, updates)


def turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> int:
    """Return 1 if c is right of the line from a to b in an image, -1 left, 0 on it; exact for whole numbers."""
    value = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    return (value > 0) - (value < 0)


GRID = st.tuples(st.integers(1, 15), st.integers(1, 15))


@given(GRID, GRID, st.lists(GRID, min_size=1, max_size=30))
def test_every_crossing_of_the_segment_is_counted(
    start: tuple[int, int], end: tuple[int, int], path: list[tuple[int, int]]
) -> None:
    if start == end:
        return
    zones = watch(lines={"gate": line((start[0] * 2, start[1] * 2), (end[0] * 2, end[1] * 2))})
    ways = [(x * 2 + 1, y * 2) for x, y in path]  # never through an end of the line by way of a corner alone
    events = walk(zones, ways)
    a, b = (start[0] * 2, start[1] * 2), (end[0] * 2, end[1] * 2)
    expected, side = [], 0
    for before, now in zip([ways[0], *ways], ways, strict=False):
        here = turn(a, b, now)
        if here and side and here != side:
            # It met the line where the line's ends are on different sides of the way, or it came from a point of the line.
            between = turn(before, now, a) * turn(before, now, b) <= 0
            expected += ["in" if here > 0 else "out"] if between else []
        side = here or side
    assert [event.direction for event in events] == expected


@given(st.lists(st.floats(-60, 60).map(lambda x: round(x, 2)), min_size=1, max_size=40), st.sampled_from([0.0, 40.0, 160.0]))
def test_in_minus_out_is_the_change_of_sides(across: list[float], side: float) -> None:
    zones = watch(lines={"gate": line((64, 640), (64, -640))})
    clear = side * CLEAR
    if any(abs(abs(x) - limit) <= 0.01 for x in across for limit in (clear, AGAIN * clear)) or across[0] == 0:
        return
    side_now, limit, changes = across[0] > 0, clear, 0
    for x in across:
        if (x > 0) != side_now and abs(x) > limit:
            side_now, limit = x > 0, AGAIN * clear
            changes += 1
    walk(zones, [(64 + x, 30) for x in across], side)
    went_in, went_out = zones.counts()["gate"]
    assert went_in - went_out == side_now - (across[0] > 0)
    assert went_in + went_out == changes


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=30))
def test_jitter_on_an_edge_below_the_minimum_time_gives_no_event(stays: list[tuple[int, bool]]) -> None:
    zones = watch({"room": room(min_s=1.0)})
    now = 0
    # Long outside, jitter, long inside, jitter.
    for settled, x in ((False, 0.0), (True, 64.0)):
        assert [
            event.kind for moment in range(20) for event in zones.update(standing((1, x, 30)), SIZE, (now + moment) / 10)
        ] == (["enter"] if settled else [])
        now += 20
        for tenths, _ in stays:
            for where in (not settled, settled):  # away for less than a second, then back
                for _ in range(tenths if where != settled else 1):
                    assert zones.update(standing((1, 64.0 if where else 0.0, 30)), SIZE, now / 10) == ()
                    now += 1


@given(
    st.lists(POSITIONS, min_size=1, max_size=25), st.sampled_from([2, 4, 8, 32]), st.tuples(st.integers(0, 4), st.integers(0, 4))
)
def test_scale_and_position_do_not_change_the_events(path: list[tuple[float, float]], scale: int, shift: tuple[int, int]) -> None:
    def events(size: Size, dx: float, dy: float) -> list[tuple[object, ...]]:
        corners = [(0.25, 0.125), (0.5, 0.25), (0.375, 0.5)]
        zones = watch(
            {"room": ZoneSettings(units="relative", polygon=tuple((x + dx, y + dy) for x, y in corners), min_s=1, dwell_s=3)},
            {"gate": line((0.125 + dx, 0.5 + dy), (0.375 + dx, 0.125 + dy), units="relative")},
        )
        found: list[SceneEvent] = []
        for number, (x, y) in enumerate(path):
            spot = (1, (x / 256 + dx) * size.width, (y / 128 + dy) * size.height)
            found += zones.update(standing(spot, side=size.width / 8), size, number)
        return facts(found)

    usual = events(SIZE, 0, 0)
    assert events(Size(SIZE.width * scale, SIZE.height * scale), 0, 0) == usual
    assert events(SIZE, shift[0] / 8, shift[1] / 8) == usual
