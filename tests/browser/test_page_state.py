"""What the page computes, in the browser that computes it: times, the boxes of a displayed frame, shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.watched import Watched, watched
from tests.service.fakes import OPEN, FakeBackend
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Watched]:
    backend = FakeBackend(port=0)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        with watched(browser, web.url) as one:
            one.open("engines")
            yield one
            one.expect_quiet()


def run(page: Watched, module: str, body: str, argument: Any = None) -> Any:
    """The value of a function's body, which sees a module as ``m`` and its argument as ``given``."""
    script = f"async (given) => {{ const m = await import('/page/state/{module}.js'); {body} }}"
    return page.page.evaluate(script, argument)


def anchor(rtp: int, pts_ms: float, **more: Any) -> dict[str, Any]:
    return {"rtp": rtp, "pts_ns": pts_ms * 1e6, "captured_ns_utc": None, "clock_rate": 90_000, "by": "pts", **more}


def row(pts_s: float, *boxes: tuple[int, list[float]], label: str = "ball") -> dict[str, Any]:
    found = [{"class_id": 0, "label": label, "score": 0.9, "box": box, "track_id": track} for track, box in boxes]
    plain = [{key: value for key, value in one.items() if key != "track_id" or value} for one in found]
    return {"pts_s": pts_s, "width": 640, "height": 360, "detections": plain, "latency_ms": {}}


def time_of(page: Watched, anchors: list[dict[str, Any]], rtp: int) -> Any:
    return run(
        page,
        "timing",
        "const a = new m.Anchors(); for (const one of given[0]) a.add(one); return a.timeOf(given[1]);",
        [anchors, rtp],
    )


def at(page: Watched, rows: list[dict[str, Any]], ms: float, mode: str = "interpolate", by: str = "pts") -> Any:
    fill = "const k = new m.Matching(); for (const one of given[0]) k.push(one);"
    body = f"{fill} return k.at({{ms: given[1], by: given[3]}}, given[2]);"
    return run(page, "matching", body, [rows, ms, mode, by])


def test_an_anchor_gives_the_time_of_frames_around_it(page: Watched) -> None:
    anchors = [anchor(90_000, 5000)]
    assert time_of(page, [], 90_000) is None
    assert time_of(page, anchors, 90_000) == {"ms": 5000, "by": "pts"}
    assert time_of(page, anchors, 93_000)["ms"] == pytest.approx(5033.333, abs=0.001)
    assert time_of(page, anchors, 87_000)["ms"] == pytest.approx(4966.667, abs=0.001)


def test_rtp_timestamps_wrap(page: Watched) -> None:
    assert time_of(page, [anchor(2**32 - 1500, 1000)], 1500)["ms"] == pytest.approx(1000 + 3000 / 90)
    assert time_of(page, [anchor(1500, 1000)], 2**32 - 1500)["ms"] == pytest.approx(1000 - 3000 / 90)


def test_the_anchor_before_the_frame_counts(page: Watched) -> None:
    """Where the times of a stream jump, or are compressed for a viewer that begins, each anchor holds from its frame on."""
    anchors = [anchor(1000, 0), anchor(10_000, 7000), anchor(20_000, 100)]
    assert time_of(page, anchors, 9100)["ms"] == pytest.approx(90)
    assert time_of(page, anchors, 10_900)["ms"] == pytest.approx(7010)
    assert time_of(page, anchors, 20_900)["ms"] == pytest.approx(110)
    assert time_of(page, anchors, 910)["ms"] == pytest.approx(-1)


def test_a_stream_without_times_of_its_own_goes_by_the_time_of_capture(page: Watched) -> None:
    moment = anchor(0, 0, by="captured", captured_ns_utc=1_764_000_000_000 * 10**6)
    assert time_of(page, [moment], 9000) == {"ms": pytest.approx(1_764_000_000_100, abs=0.01), "by": "captured"}
    rows = [{**row(1, (1, [0, 0, 9, 9])), "captured_at": "2025-11-24T16:00:00.100Z"}]
    assert at(page, rows, 1_764_000_000_100, by="captured")["exact"]


def test_the_result_of_the_very_frame(page: Watched) -> None:
    rows = [row(1.0, (1, [0, 0, 10, 10])), row(1.033333, (1, [6, 0, 16, 10])), row(1.066667, (1, [12, 0, 22, 10]))]
    known = at(page, rows, 1033.33)
    assert known["exact"]
    assert [one["box"] for one in known["found"]] == [[6, 0, 16, 10]]
    assert at(page, rows, 990)["row"] is None, "before the first result nothing is known"


def test_between_results_a_track_moves(page: Watched) -> None:
    rows = [row(1.0, (1, [0, 0, 10, 10])), row(1.2, (1, [60, 0, 70, 10]))]
    known = at(page, rows, 1050)
    assert not known["exact"]
    assert known["found"][0]["box"] == pytest.approx([15, 0, 25, 10])
    assert known["found"][0]["alpha"] == 1


def test_after_the_newest_result_a_track_goes_on_for_a_while_and_fades(page: Watched) -> None:
    rows = [row(1.0, (1, [0, 0, 10, 10])), row(1.2, (1, [60, 0, 70, 10]))]
    soon, later, late = (at(page, rows, ms)["found"] for ms in (1300, 1700, 2000))
    assert soon[0]["box"] == pytest.approx([90, 0, 100, 10])
    assert later[0]["box"] == pytest.approx([150, 0, 160, 10]), "no farther than half as long again as results are apart"
    assert later[0]["alpha"] == pytest.approx(0.5)
    assert late == []


def test_boxes_may_fade_instead(page: Watched) -> None:
    rows = [row(1.0, (1, [0, 0, 10, 10])), row(1.2, (1, [60, 0, 70, 10]))]
    (box,) = at(page, rows, 1100, "fade")["found"]
    assert box["box"] == [0, 0, 10, 10]
    assert box["alpha"] == pytest.approx(0.75)


def test_objects_without_tracks_are_joined_by_class_and_place(page: Watched) -> None:
    rows = [
        row(1.0, (0, [0, 0, 100, 100]), (0, [300, 0, 400, 100])),
        row(1.1, (0, [310, 0, 410, 100]), (0, [10, 0, 110, 100])),
    ]
    boxes = sorted(one["box"][0] for one in at(page, rows, 1050)["found"])
    assert boxes == pytest.approx([5, 305])


def test_who_comes_and_who_goes_fades(page: Watched) -> None:
    rows = [row(1.0, (1, [0, 0, 10, 10])), row(1.1, (2, [300, 0, 310, 10]))]
    found = {one["track_id"]: one["alpha"] for one in at(page, rows, 1075)["found"]}
    assert found == {1: pytest.approx(0.25), 2: pytest.approx(0.75)}


def test_a_camera_that_came_back_begins_anew(page: Watched) -> None:
    rows = [row(100.0, (1, [0, 0, 10, 10])), row(0.5, (1, [50, 0, 60, 10]))]
    assert at(page, rows, 100_000)["found"] == []
    assert at(page, rows, 500)["exact"]


def test_rows_are_kept_for_seconds_only(page: Watched) -> None:
    fill = "const k = new m.Matching(); for (let i = 0; i < 5000; i++) k.push({pts_s: i / 100, detections: []});"
    assert run(page, "matching", f"{fill} return k.rows.length;") <= 600


def test_the_picture_waits_for_results_no_longer_than_needed(page: Watched) -> None:
    assert run(page, "in_step", "return m.next(0, [40, 40, 40, 40])") == pytest.approx(52)
    assert run(page, "in_step", "return m.next(100, [-60, -60, -60])") == pytest.approx(90)
    assert run(page, "in_step", "return m.next(450, [400, 400, 400])") == 500
    assert run(page, "in_step", "return m.next(80, [])") == 80


def test_shapes_there_and_back(page: Watched) -> None:
    settings: dict[str, Any] = {
        "detect": "test://",
        "zones": {"door": {"units": "pixels", "polygon": [[0, 0], [320, 0], [320, 180]], "dwell_s": 5}},
        "lines": {"gate": {"units": "relative", "from": [0.5, 1], "to": [0.5, 0]}},
    }
    size = {"width": 640, "height": 360}
    body = "return m.withShapes(given[0], m.shapesOf(given[0], given[1]));"
    told = run(page, "shapes", body, [settings, size])
    assert told["zones"]["door"] == {"units": "relative", "polygon": [[0, 0], [0.5, 0], [0.5, 0.5]], "dwell_s": 5}
    assert told["lines"]["gate"] == settings["lines"]["gate"]
    assert told["detect"] == "test://"


def test_in_is_from_the_left_of_a_line_to_its_right(page: Watched) -> None:
    """As docs/how-to/zones-and-lines.md draws it: from the bottom to the top, what moves to the right comes in."""
    told = run(page, "shapes", "return m.inward([[0.5, 1], [0.5, 0]], {width: 640, height: 360})")
    assert told["direction"] == pytest.approx([1, 0])


def test_shapes_stay_in_the_picture(page: Watched) -> None:
    points = run(page, "shapes", "return m.moved([[0.1, 0.1], [0.3, 0.1], [0.3, 0.4]], null, [-0.5, 0.05])")
    assert points[0] == pytest.approx([0, 0.15])
    assert points[1] == pytest.approx([0.2, 0.15])


@pytest.mark.parametrize(
    ("shapes", "mistake"),
    [
        ([{"kind": "zone", "name": "a b", "points": [[0, 0], [1, 0], [1, 1]]}], "letters"),
        ([{"kind": "zone", "name": "a", "points": [[0, 0], [0.5, 0.5], [1, 1]]}], "corners"),
        ([{"kind": "line", "name": "a", "points": [[0, 0], [0, 0.001]]}], "short"),
        ([{"kind": "line", "name": "a", "points": [[0, 0], [0, 1]]}] * 2, "two lines"),
    ],
)
def test_shapes_that_cannot_be_saved(page: Watched, shapes: list[dict[str, Any]], mistake: str) -> None:
    assert mistake in run(page, "shapes", "return m.mistakeIn(given)", shapes)


def test_what_becomes_of_frames_is_summed_by_second_and_told_anew_while_it_may_change(page: Watched) -> None:
    def at(ms: int, outcome: str, **more: Any) -> dict[str, Any]:
        return {"outcome": outcome, "captured": f"2026-01-01T00:00:{ms // 1000:02}.{ms % 1000:03}Z", **more}

    begin = 1767225600000
    first = [at(500, "emitted"), at(1200, "paced"), at(1900, "emitted")]
    again = [
        at(1200, "paced"),
        at(1900, "emitted"),
        at(1950, "superseded"),
        {"outcome": "stale", "captured": None, "at": "2026-01-01T00:00:03Z"},
    ]
    told = run(
        page,
        "timeline",
        "const s = new m.Seconds(); s.put(given[0], given[1]); s.put(given[0] + 1100, given[2]);"
        "const all = m.bars(s.buckets, given[0] + 4500, {ms: 5000, step: 1000});"
        "return [all.map((one) => one.outcomes), m.totals(all), all.map((one) => one.at - given[0])]",
        [begin, first, again],
    )
    assert told[0] == [{"emitted": 1}, {"paced": 1, "emitted": 1, "superseded": 1}, {}, {"stale": 1}, {}]
    assert told[1] == [["emitted", 2], ["paced", 1], ["superseded", 1], ["stale", 1]]
    assert told[2] == [0, 1000, 2000, 3000, 4000]


def test_minutes_become_longer_bars(page: Watched) -> None:
    minutes = [
        {"from": f"2026-01-01T00:{minute:02}:00Z", "outcomes": {"emitted": 10, "failed": minute}, "max_age_ms": 5}
        for minute in range(24)
    ]
    told = run(
        page,
        "timeline",
        "const span = {ms: 24 * 60000, step: 12 * 60000};"
        "return m.bars(m.minutesOf(given[1]), given[0] + 23.5 * 60000, span).map((one) => one.outcomes)",
        [1767225600000, minutes],
    )
    assert told == [{"emitted": 120, "failed": 66}, {"emitted": 120, "failed": 210}]


@pytest.mark.parametrize(
    ("outcome", "kind"), [("emitted", "good"), ("paced", "wanted"), ("failed", "failed"), ("superseded", "lost"), ("new", "lost")]
)
def test_how_grave_a_fate_is(page: Watched, outcome: str, kind: str) -> None:
    assert run(page, "timeline", "return m.kindOf(given)", outcome) == kind
