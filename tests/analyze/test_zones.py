"""Zones and lines: one event for every visit and every real crossing, despite irregular times and jitter."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.analyze.walking import SIZE, VALIDATOR, facts, line, room, standing, walk, watch
from tests.support.media import asset
from vision_infer.analyze.zones import Zones
from vision_infer.config.zones import ZoneSettings
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.core.result import Result
from vision_infer.core.scene_event import SceneEvent


def test_a_visit() -> None:
    zones = watch({"door": room(min_s=0.2, dwell_s=1.5)})
    happened = []
    for tenth in range(50):
        x = 64 if 10 <= tenth < 35 else 10
        for event in zones.update(standing((3, x, 30)), SIZE, tenth / 10):
            happened.append((tenth, event))
            VALIDATOR.validate(event.to_dict())
        assert zones.occupancy() == {"door": int(12 <= tenth < 37)}
    assert [(tenth, event.to_dict()) for tenth, event in happened] == [
        (12, {"kind": "enter", "place": "door", "track_id": 3, "class_id": 0, "label": "person"}),
        (25, {"kind": "dwell", "place": "door", "track_id": 3, "class_id": 0, "label": "person", "seconds": 1.5}),
        (37, {"kind": "leave", "place": "door", "track_id": 3, "class_id": 0, "label": "person", "seconds": 2.5}),
    ]


def test_a_track_that_vanishes_inside_leaves_after_the_grace_time() -> None:
    zones = watch({"door": room(min_s=0, dwell_s=60)})
    assert [event.kind for event in zones.update(standing((1, 64, 30)), SIZE, 100)] == ["enter"]
    assert zones.update(standing((1, 65, 30)), SIZE, 101.5) == ()
    assert zones.update(standing((2, 1, 1)), SIZE, 103.4) == ()
    assert zones.occupancy() == {"door": 1}
    assert facts(zones.update(Detections.empty(), SIZE, 103.5)) == [("leave", "door", 1, 1.5, None, None)]
    assert zones.occupancy() == {"door": 0}
    # It returns as a new track.
    assert [event.kind for event in zones.update(standing((1, 64, 30)), SIZE, 103.6)] == ["enter"]


def test_a_track_that_is_hidden_for_a_moment_has_not_left() -> None:
    zones = watch({"door": room(min_s=0)})
    zones.update(standing((1, 64, 30)), SIZE, 0)
    for moment in (0.5, 1.0, 1.9):
        assert zones.update(Detections.empty(), SIZE, moment) == ()
    assert zones.update(standing((1, 60, 30)), SIZE, 2.5) == ()
    assert zones.occupancy() == {"door": 1}


def test_only_tracks_of_its_classes_count() -> None:
    zones = watch(
        {"all": room(min_s=0), "wheels": room(min_s=0, classes=["bicycle", "car"])},
        {"feet": line((64, 64), (64, 0), classes=["person"])},
    )
    first = zones.update(standing((1, 60, 30), (2, 60, 30), (0, 60, 30), classes=[0, 2, 2]), SIZE, 0)
    assert [(event.place, event.track_id, event.label) for event in first] == [
        ("all", 1, "person"),
        ("all", 2, "car"),
        ("wheels", 2, "car"),
    ]
    second = zones.update(standing((1, 70, 30), (2, 70, 30), (0, 70, 30), classes=[0, 2, 2]), SIZE, 1)
    assert facts(second) == [("cross", "feet", 1, None, "in", (1, 0))]
    untracked = Detections(*(getattr(standing((1, 1, 1)), name) for name in ("boxes", "scores", "class_ids")))
    assert zones.update(untracked, SIZE, 1.5) == ()
    with pytest.raises(ValueError, match="not in tuple"):
        watch({"door": room(classes=["dragon"])})


def test_in_is_from_left_to_right_along_the_line() -> None:
    up = {"gate": line((64, 64), (64, 0))}
    assert facts(walk(watch(lines=up), [(50, 30), (80, 30), (50, 30)])) == [
        ("cross", "gate", 1, None, "in", (1, 0)),
        ("cross", "gate", 1, None, "out", (1, 1)),
    ]
    to_the_right = {"gate": line((0, 32), (128, 32))}
    assert [event.direction for event in walk(watch(lines=to_the_right), [(60, 10), (60, 50), (60, 10)])] == ["in", "out"]


def test_a_track_around_the_end_of_a_line_does_not_cross_it() -> None:
    gate = {"gate": line((64, 40), (64, 20))}
    assert walk(watch(lines=gate), [(50, 10), (80, 10), (80, 60), (50, 60)]) == []
    around = watch(lines=gate)
    assert [event.direction for event in walk(around, [(50, 30), (80, 30), (80, 60), (50, 60), (50, 30), (80, 30)])] == [
        "in",
        "in",
    ]
    assert around.counts() == {"gate": (2, 0)}


def test_jitter_on_a_line_counts_once_the_track_is_clear() -> None:
    side = 80  # clear from 16 pixels on
    gate = {"gate": line((64, 64), (64, 0))}
    jitter = [(64 + (3 if step % 2 else -3), 30) for step in range(40)]
    assert walk(watch(lines=gate), [(40, 30), *jitter, (40, 30)], side) == []
    crossing = watch(lines=gate)
    assert facts(walk(crossing, [(40, 30), *jitter, (70, 30), *jitter, (84, 30)], side)) == [
        ("cross", "gate", 1, None, "in", (1, 0))
    ]


def test_a_counted_track_must_go_farther_to_count_again() -> None:
    zones = watch(lines={"gate": line((64, 64), (64, 0))})
    events = walk(zones, [(x, 30) for x in (40, 80, 51, 77, 51, 80, 29)], side=20)  # clear at 4 pixels, then at 12
    assert [event.direction for event in events] == ["in", "out", "in", "out", "in", "out"]
    zones = watch(lines={"gate": line((64, 64), (64, 0))})
    events = walk(zones, [(x, 30) for x in (40, 70, 58, 70, 58, 70, 40)], side=20)
    assert [event.direction for event in events] == ["in", "out"]


def test_a_track_leaves_a_zone_only_once_it_is_clear_of_the_edge() -> None:
    zones = watch({"room": room(min_s=0)})  # its right edge is at 96
    path = [(90, 30), (97, 30), (111, 30), (95, 30), (111, 30), (113, 30), (111, 30), (97, 30), (95, 30)]
    found = [
        [event.kind for event in zones.update(standing((1, x, y), side=80), SIZE, number)] for number, (x, y) in enumerate(path)
    ]
    assert found == [["enter"], [], [], [], [], ["leave"], [], [], ["enter"]]
    corner = watch({"room": room(min_s=0)})
    path = [(95, 47), (102, 54), (109, 60)]  # 8.5 and 17.7 from the corner
    found = [
        [event.kind for event in corner.update(standing((1, x, y), side=80), SIZE, number)] for number, (x, y) in enumerate(path)
    ]
    assert found == [["enter"], [], ["leave"]]


def test_relative_zones_follow_the_size_of_each_image() -> None:
    zones = watch({"room": room(units="relative", polygon=[[0.5, 0], [1, 0], [1, 1], [0.5, 1]], min_s=0)})
    assert zones.update(standing((1, 60, 30)), SIZE, 0) == ()
    assert [event.kind for event in zones.update(standing((1, 60, 30)), Size(100, 64), 1)] == ["enter"]
    assert [event.kind for event in zones.update(standing((1, 60, 30)), SIZE, 2)] == ["leave"]


def test_time_continues_after_it_went_back() -> None:
    zones = watch({"room": room(min_s=0, dwell_s=3)})
    times = [100.0, 101.0, 0.0, 1.0, math.nan, 2.0, 3.0]  # a second, none, a second, none, a second …
    found = [facts(zones.update(standing((1, 64, 30)), SIZE, now_s)) for now_s in times]
    assert found[5] == [("dwell", "room", 1, 3.0, None, None)]
    assert [len(events) for events in found] == [1, 0, 0, 0, 0, 1, 0]


def test_present_tracks_do_not_keep_missing_ones() -> None:
    zones = watch({"room": room(min_s=0)})
    zones.update(standing((1, 64, 30), (2, 64, 30)), SIZE, 0)
    found = [zones.update(standing((1, 64, 30)), SIZE, second) for second in (1, 2, 3)]
    assert [facts(events) for events in found] == [[], [("leave", "room", 2, 0.0, None, None)], []]


def test_an_event_has_the_class_at_its_time() -> None:
    zones = watch({"room": room(min_s=0)})
    zones.update(standing((1, 64, 30), classes=[1]), SIZE, 0)
    zones.update(standing((1, 64, 30), classes=[2]), SIZE, 1)
    assert [(event.label, event.class_id) for event in zones.leave_all()] == [("car", 2)]


def test_the_number_of_tracks_is_bounded() -> None:
    zones = watch({"room": room(min_s=0)}, max_tracks=50)
    left = 0
    for number in range(0, 1000, 10):
        spots = [(number + more, 64.0, 30.0) for more in range(1, 11)]
        left += sum(event.kind == "leave" for event in zones.update(standing(*spots), SIZE, number / 1e6))
        assert zones.occupancy()["room"] <= 50
    assert left == 1000 - 50
    assert len(zones.leave_all()) == 50
    with pytest.raises(ValueError, match="at least 1"):
        watch(max_tracks=0)


def test_mappings_that_another_thread_holds_do_not_change() -> None:
    zones = watch({"room": room(min_s=0)}, {"gate": line((64, 64), (64, 0))})
    before = zones.occupancy(), zones.counts()
    walk(zones, [(60, 30), (80, 30)])
    assert before == ({"room": 0}, {"gate": (0, 0)})
    assert (zones.occupancy(), zones.counts()) == ({"room": 1}, {"gate": (1, 0)})
    with pytest.raises(TypeError):
        zones.occupancy()["room"] = 5  # type: ignore[index]


def test_a_duplicate_number_counts_once() -> None:
    zones = watch({"room": room(min_s=0)})
    assert facts(zones.update(standing((1, 64, 30), (1, 0, 0), (1, 64, 30)), SIZE, 0)) == [("enter", "room", 1, None, None, None)]


def test_the_schema_defines_the_fields_of_each_kind() -> None:
    bare = {"kind": "enter", "place": "door", "track_id": 1, "class_id": 0, "label": "person"}
    assert VALIDATOR.is_valid(bare)
    counts = {"in": 1, "out": 0}
    for change in (
        {"kind": "leave"},
        {"kind": "cross"},
        {"kind": "cross", "direction": "in"},
        {"seconds": 1.5},
        {"direction": "in"},
        {"counts": counts},
        {"track_id": 0},
        {"kind": "leave", "seconds": 1, "counts": counts},
    ):
        assert not VALIDATOR.is_valid(bare | change)
    assert VALIDATOR.is_valid(bare | {"kind": "cross", "direction": "in", "counts": counts})


PEOPLE = {"classes": ["person"]}


def results_of(clip: str, last: int) -> Iterator[Result]:
    """Yield the results of a real clip, up to a frame, with the bundled detector and the tracker."""
    from vision_infer import Detector, Pipeline

    for result in Pipeline(Detector(), track=True, every=2).run(asset(clip)):
        yield result
        if result.frame >= last:
            break


def events_of(results: Iterable[Result], zones: Zones) -> list[SceneEvent]:
    events: list[SceneEvent] = []
    for result in results:
        assert result.pts_s is not None
        events += zones.update(result.detections, result.size, result.pts_s)
    return events


def test_a_person_enters_dwells_and_leaves(bundled: Path) -> None:
    table = {"polygon": [[380, 340], [540, 340], [540, 430], [380, 430]], "dwell_s": 5, **PEOPLE}
    zones = watch(
        {"table": ZoneSettings.model_validate(table)},
        {"door": line((600, 432), (600, 0), **PEOPLE), "wall": line((240, 432), (240, 200), **PEOPLE)},
    )
    events = events_of(results_of("videos/one-by-one-person-detection.mp4", 228), zones)  # then the next one comes
    assert [(event.kind, event.place, event.direction) for event in events] == [
        ("enter", "table", None),
        ("dwell", "table", None),
        ("leave", "table", None),
        ("cross", "door", "in"),
    ]
    assert len({event.track_id for event in events}) == 1
    assert {event.label for event in events} == {"person"}
    assert events[2].seconds == pytest.approx(11.5, abs=1)  # from frame 71 to 186, at 10 a second
    assert (zones.occupancy(), zones.counts()) == ({"table": 0}, {"door": (1, 0), "wall": (0, 0)})


def test_a_person_on_a_line_and_an_edge_is_not_counted_repeatedly(bundled: Path) -> None:
    # The lower edge of this person's box jitters by a few pixels for ten seconds. The first frames have no box.
    results = list(results_of("videos/person_h264_10s.mp4", 99))
    lower = statistics.median(float(result.detections.boxes[0, 3]) for result in results if len(result.detections))
    edge = {"polygon": [[300, lower], [650, lower], [650, 430], [300, 430]], **PEOPLE}
    zones = watch({"floor": ZoneSettings.model_validate(edge)}, {"feet": line((300, lower + 0.3), (650, lower + 0.3), **PEOPLE)})
    events = events_of(results, zones)
    assert facts(events) == [("enter", "floor", 1, None, None, None)]
    assert zones.counts() == {"feet": (0, 0)}
