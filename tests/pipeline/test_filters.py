"""From the settings of a run to the selectors of each stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.fakes import CARD, EchoEngine, FakeSource
from vision_infer.config.region import read_region
from vision_infer.config.run import RunSettings, run_settings
from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import UsageError
from vision_infer.pipeline.lanes.lane import GROUP_IOU, scores_by_class
from vision_infer.pipeline.runs.resume import results_depend_on
from vision_infer.pipeline.runs.run_factories import Shapes, make_lane, source_command
from vision_infer.pipeline.steps import make_steps


def test_only_labels_that_are_similar_are_suggested(card: ModelCard) -> None:
    """Fixed limits suggested a toilet for a motorbike."""
    coco = card.model_copy(update={"labels": ("person", "remote", "motorcycle", "toilet")})
    with pytest.raises(UsageError, match=r"Did you mean motorcycle\?$"):
        scores_by_class(coco, {"motorbike": 0.5})
    with pytest.raises(UsageError, match="to list them"):
        scores_by_class(coco, {"television": 0.5})


def settings(**values: Any) -> RunSettings:
    return run_settings(sources=("-",), **values)


def test_confidences_of_classes_are_found_by_label(card: ModelCard) -> None:
    assert scores_by_class(card, {"Person": 0.5, "car": 0.1}) == {0: 0.5, 2: 0.1}
    with pytest.raises(UsageError, match="Did you mean bicycle"):
        scores_by_class(card, {"bycicle": 0.5})
    with pytest.raises(UsageError, match="CAR is given twice"):
        scores_by_class(card, {"car": 0.5, "CAR": 0.5})
    assert CARD.labels is None
    assert scores_by_class(CARD, {"7": 0.5}) == {7: 0.5}


@pytest.mark.parametrize("track", [True, False])
def test_a_tracker_gets_low_scores_and_reports_only_confident_tracks(track: bool) -> None:
    wanted = settings(confidence=0.4, per_class={"1": 0.6, "2": 0.05}, track=track)
    command = source_command(FakeSource(0).spec, make_lane(EchoEngine(), wanted), wanted)
    assert command.selector is not None
    assert command.selector.confidence == (0.1 if track else 0.4)
    assert command.selector.per_class == ({1: 0.1, 2: 0.05} if track else {1: 0.6, 2: 0.05})
    assert command.track == (0.4 if track else None)
    assert command.track_per_class == {1: 0.6, 2: 0.05}


STREET = ModelCard.model_validate(
    {"name": "street", "input": {"width": 32, "height": 32}, "labels": ("Person", "car", "motorcycle", "Bus", "cup"), "iou": 0.6}
)


@pytest.mark.parametrize(
    ("nms", "classes", "kept"),
    [
        (None, ("person",), {0}),
        (None, ("person", "motorcycle"), {0, 2}),
        (None, None, {0, 2, 3, 4}),
        (None, ("car",), {3}),  # the tracker decides by vote what it is
        ("per_class", ("car",), {1}),
        ("agnostic", ("person",), {2, 3}),
    ],
)
def test_only_similar_classes_suppress_each_other(nms: str | None, classes: tuple[str, ...] | None, kept: set[int]) -> None:
    """A rider has about the box of the motorcycle, which is seen more clearly: IoU 0.72."""
    wanted = settings(classes=classes, track=True, nms=nms)
    engine = EchoEngine()
    engine.card = STREET
    selector = source_command(FakeSource(0).spec, make_lane(engine, wanted), wanted).selector
    assert selector is not None
    rider, street = ([0, 0, 100, 100], [0, 16.3, 100, 116.3]), ([300, 0, 400, 100],) * 2
    boxes = np.array([[*rider, *street, [290, 0, 390, 100]]], np.float32)
    scores = np.array([[0.6, 0.65, 0.5, 0.7, 0.4]], np.float32)
    ((_, _, found),) = selector(boxes, scores, np.array([[0, 2, 1, 3, 4]], np.int32))
    assert set(found.tolist()) == kept


def test_a_tracker_sees_all_classes_and_filters_by_the_vote() -> None:
    wanted = settings(classes=("1", "2"), track=True, track_floor=0.2, nms="agnostic")
    command = source_command(FakeSource(0).spec, make_lane(EchoEngine(), wanted), wanted)
    assert command.selector is not None
    assert (command.selector.classes, command.selector.confidence, command.selector.iou) == (None, 0.2, GROUP_IOU)
    steps = make_steps(command, CARD, None, SYSTEM_CLOCK)
    assert steps.tracker is not None
    assert (steps.tracker.classes, steps.tracker.floor, steps.tracker.agnostic) == (frozenset({1, 2}), 0.2, True)
    apart = source_command(FakeSource(0).spec, make_lane(EchoEngine(), wanted), wanted.model_copy(update={"nms": "per_class"}))
    assert apart.selector is not None
    assert (apart.selector.classes, apart.selector.groups, apart.selector.iou) == (frozenset({1, 2}), {}, None)


def test_each_stream_gets_its_own_region(tmp_path: Path) -> None:
    path = tmp_path / "where.yaml"
    path.write_text("look: [[[0, 0], [9, 0], [9, 9]]]\nstreams:\n  s1: {ignore: [[[0, 0], [5, 0], [5, 5]]]}\n")
    wanted = settings(min_size=12, region=path)
    region = read_region(path, ["s0", "s1"])
    lane = make_lane(EchoEngine(), wanted)
    first, second = (source_command(FakeSource(number).spec, lane, wanted, Shapes(region)) for number in (0, 1))
    assert first.policy.min_size == second.policy.min_size == 12
    assert first.region is not None
    assert second.region is not None
    assert (len(first.region.look), len(first.region.ignore)) == (1, 0)
    assert (len(second.region.look), len(second.region.ignore)) == (0, 1)


def test_a_run_is_resumed_only_with_the_same_polygons(tmp_path: Path, bundled: Path) -> None:
    first, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    for path in (first, other):
        path.write_text("look: [[[0, 0], [9, 0], [9, 9]]]\n")
    before = results_depend_on(settings(region=first), bundled)
    assert results_depend_on(settings(region=other), bundled) == before
    first.write_text("look: [[[0, 0], [9, 0], [9, 8]]]\n")
    assert results_depend_on(settings(region=first), bundled) != before
