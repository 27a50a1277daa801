"""Filters of results, and how often a row is encoded."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from tests.service.fakes import result
from tests.service.reading import drain, rows_of, run, write
from tests.support.details import details, with_details
from vision_infer.core.description import ClassScore, Description
from vision_infer.core.result import Result
from vision_infer.core.scene_event import SceneEvent
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.results.row import ResultFilter, ResultRow


def test_filters() -> None:
    crossing = SceneEvent("cross", "gate", 1, 2, "car", direction="in", counts=(1, 0))

    async def work() -> None:
        hub = ResultHub()
        wanted = [
            ResultFilter(streams=frozenset({"gate"})),
            ResultFilter(classes=frozenset({"car"})),
            ResultFilter(min_score=0.5),
            ResultFilter(classes=frozenset({"car"}), min_score=0.5, only_with_detections=True),
            ResultFilter(only_with_detections=True),
        ]
        readers = [hub.subscribe(one) for one in wanted]
        write(hub, result("door"), result("gate", found={"bicycle": 0.3}), result("yard", found={}, events=(crossing,)))
        got = [rows_of(await drain(reader)) for reader in readers]
        for reader in readers:
            hub.leave(reader)
        assert [row["stream"] for row in got[0]] == ["gate"]
        assert [[one["label"] for one in row["detections"]] for row in got[1]] == [["car"], [], []]
        assert [[one["label"] for one in row["detections"]] for row in got[2]] == [["person"], [], []]
        assert [row["stream"] for row in got[3]] == ["yard"]
        assert [row["stream"] for row in got[4]] == ["door", "gate", "yard"]
        assert [row.get("events", []) != [] for row in got[1]] == [False, False, True]

    run(work())


STANDING = Description((ClassScore(1, "standing", 0.8), ClassScore(0, "sitting", 0.1)))
SITTING = Description((ClassScore(0, "sitting", 0.4), ClassScore(1, "standing", 0.3)))
VECTOR = Description(embedding=np.array([1, 0], np.float32))


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [
        (ResultFilter(classes=frozenset({"standing"})), ["car"]),
        (ResultFilter(classes=frozenset({"standing"}), min_score=0.8), ["car"]),  # the score of the matching class
        (ResultFilter(classes=frozenset({"standing"}), min_score=0.81), []),
        (ResultFilter(classes=frozenset({"sitting"})), ["person"]),  # only the most probable class counts
        (ResultFilter(classes=frozenset({"sitting"}), min_score=0.5), []),
        (ResultFilter(classes=frozenset({"person", "standing"}), min_score=0.5), ["person", "car"]),
        (ResultFilter(min_score=0.5), ["person"]),
        (ResultFilter(classes=frozenset({"person"})), ["person"]),
        (ResultFilter(classes=frozenset({"bicycle"})), ["bicycle"]),
        (ResultFilter(classes=frozenset({"kneeling"})), []),
    ],
    ids=itertools.count(),  # a set is not shown in the same order by each worker
)
def test_a_detection_is_selected_by_its_secondary_class(wanted: ResultFilter, labels: list[str]) -> None:
    plain = result(found={"person": 0.9, "car": 0.4, "bicycle": 0.45})
    detections = replace(plain.detections, descriptions=(SITTING, STANDING, None))
    row = ResultRow(replace(plain, detections=detections), 1)
    chosen = row.chosen(wanted).detections
    assert chosen.labels == labels
    assert row.holds(wanted) == bool(labels)
    assert all(one in (SITTING, STANDING, None) for one in chosen.descriptions or ()), (
        "the description of a detection is complete"
    )


@pytest.mark.parametrize(
    ("wanted", "classes"),
    [
        (ResultFilter(min_score=0.2), ["standing"]),
        (ResultFilter(classes=frozenset({"sitting", "person"})), ["sitting"]),
        (ResultFilter(classes=frozenset({"sitting"}), min_score=0.2), []),
        (ResultFilter(), ["standing", "sitting"]),
    ],
    ids=itertools.count(),  # a set is not shown in the same order by each worker
)
def test_image_classes_are_filtered(wanted: ResultFilter, classes: list[str]) -> None:
    row = ResultRow(replace(result(found={}), description=STANDING), 1)
    assert [one["label"] for one in json.loads(row.text(wanted))["classes"]] == classes
    assert row.holds(wanted) == bool(classes)


def test_an_embedding_has_no_class() -> None:
    row = ResultRow(replace(result(found={}), description=VECTOR), 1)
    for wanted, there in ((ResultFilter(min_score=0.9), True), (ResultFilter(classes=frozenset({"car"})), False)):
        assert ("embedding" in json.loads(row.text(wanted))) is there
        assert row.holds(wanted) is there


def test_a_row_is_encoded_once_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = Result.to_json

    def counted(self: Result) -> str:
        calls.append(self.frame)
        return original(self)

    monkeypatch.setattr(Result, "to_json", counted)

    async def work() -> None:
        hub = ResultHub()
        cars = ResultFilter(classes=frozenset({"car"}))
        readers = [hub.subscribe() for _ in range(20)] + [hub.subscribe(cars) for _ in range(20)]
        write(hub, result(index=7))
        assert calls == [], "the pipeline's thread encodes no JSON"
        for reader in readers:
            assert len(await drain(reader)) == 1
            hub.leave(reader)
        assert calls == [7, 7]

    run(work())


def test_masks_are_scaled_down_to_the_height_that_a_client_wants() -> None:
    masks = with_details(details("masks", 2))  # of an image of 40x30 pixels
    row = ResultRow(replace(result(), detections=masks), 1)
    heights = {wanted: json.loads(row.text(ResultFilter(mask_height=wanted)))["detections"] for wanted in (None, 15, 30, 400)}
    sizes = {wanted: {tuple(one["mask"]["size"]) for one in found} for wanted, found in heights.items()}
    assert sizes == {None: {(30, 40)}, 15: {(15, 20)}, 30: {(30, 40)}, 400: {(30, 40)}}
    assert [one["box"] for one in heights[15]] == [one["box"] for one in heights[None]]
    assert len(heights[15][0]["mask"]["counts"]) < len(heights[None][0]["mask"]["counts"])
    points = ResultRow(replace(result(), detections=with_details(details("keypoints", 2))), 1)
    assert points.text(ResultFilter(mask_height=15)) == points.text(ResultFilter())
