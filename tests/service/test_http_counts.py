"""The counts of lines and zones over the API."""

from __future__ import annotations

import pytest

from tests.analyze.walking import SIZE, line, room, standing, watch
from tests.service.fakes import ADMIN, TOKENS, VIEW, Api, FakeBackend
from vision_infer.analyze.zones import Zones

COUNTS = "/api/v1/streams/door/counts"
MINUTE = 60
BEGIN_S = 1_700_000_040  # a whole minute: 2023-11-14T22:14:00Z


def counted() -> Zones:
    """Return zones and lines over which a person and a car have passed, two minutes apart."""
    zones = watch({"room": room(min_s=0)}, {"gate": line((64, 64), (64, 0))})
    at_s = BEGIN_S
    for number, class_id in ((1, 0), (2, 2)):
        for x in (10.0, 40.0, 90.0, 120.0):
            events = zones.update(standing((number, x, 30.0), classes=[class_id]), SIZE, at_s)
            zones.history.add(at_s, events)
            at_s += 1
        at_s += 2 * MINUTE
    return zones


def api(zones: Zones | None) -> Api:
    backend = FakeBackend()
    backend.counted = zones
    return Api(backend, TOKENS)


def test_counts_are_listed_for_each_interval() -> None:
    found = api(counted()).get(f"{COUNTS}?interval_s=60", token=VIEW).json()
    assert found["lines"] == {"gate": {"in": 2, "out": 0}}
    assert found["zones"] == {"room": 0}
    assert [one["start"] for one in found["intervals"]] == [f"2023-11-14T22:1{minute}:00.000Z" for minute in (4, 5, 6)]
    assert found["intervals"][0]["places"]["gate"] == {"in": 1, "out": 0, "labels": {"person": {"in": 1, "out": 0}}}
    assert found["intervals"][1]["places"] == {}
    assert found["intervals"][2]["places"]["room"] == {"in": 1, "out": 1, "labels": {"car": {"in": 1, "out": 1}}}
    (hour,) = api(counted()).get(COUNTS, token=VIEW).json()["intervals"]
    assert hour["start"] == "2023-11-14T22:00:00.000Z"
    assert hour["places"]["gate"]["labels"] == {"person": {"in": 1, "out": 0}, "car": {"in": 1, "out": 0}}
    (last,) = api(counted()).get(f"{COUNTS}?interval_s=60&limit=1", token=VIEW).json()["intervals"]
    assert last["start"] == "2023-11-14T22:16:00.000Z"


def test_an_admin_resets_the_counts_and_the_history_stays() -> None:
    asked = api(counted())
    assert asked.ask("POST", f"{COUNTS}/reset", token=VIEW).status_code == 403
    assert asked.get(COUNTS, token=VIEW).json()["lines"] == {"gate": {"in": 2, "out": 0}}
    found = asked.ask("POST", f"{COUNTS}/reset", token=ADMIN).json()
    assert found["lines"] == {"gate": {"in": 0, "out": 0}}
    assert found["intervals"][0]["places"]["gate"]["in"] == 2
    assert asked.get(COUNTS, token=VIEW).json()["lines"] == {"gate": {"in": 0, "out": 0}}


def test_a_stream_without_zones_has_no_counts() -> None:
    assert api(None).get(COUNTS, token=VIEW).json() == {"lines": {}, "zones": {}, "interval_s": 3600, "intervals": []}


@pytest.mark.parametrize("query", ["interval_s=90", "interval_s=0", "limit=0"])
def test_wrong_intervals_are_refused(query: str) -> None:
    assert api(counted()).get(f"{COUNTS}?{query}", token=VIEW).status_code == 422
