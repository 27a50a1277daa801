"""Fabricated scenes with known counts: objects that pass a line and a zone, as a weak detector sees them.

The detector's faults are those that make counts wrong: labels that flicker between similar classes, several boxes of one object,
boxes that tremble, scores around the minimum, missed frames, objects that are hidden at the line or stop on it, and false
detections. The truth is the motion of the objects, which the detector does not see.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.select import select
from vision_infer.config.stream_policy import StreamPolicy
from vision_infer.config.zones import LineSettings, ZoneSettings
from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size, letterbox
from vision_infer.core.scene_event import SceneEvent
from vision_infer.core.trace import Trace
from vision_infer.engine.runtimes.null import NullEngine
from vision_infer.pipeline.add_stream import add_stream
from vision_infer.pipeline.completion import Completion, NoImage, PendingResult
from vision_infer.pipeline.lanes.lane import Lane, make_selector
from vision_infer.pipeline.steps import make_steps
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.stream.source import SourceSpec
from vision_infer.telemetry.account import StageAccount

SIZE = Size(1280, 720)
LINE_X = 640
ZONE_X = (400, 880)
LABELS = ("person", "bicycle", "car", "motorcycle", "bus", "truck", "umbrella")
SIMILAR: Mapping[str, tuple[str, ...]] = {
    "car": ("truck", "bus"),
    "truck": ("car", "bus"),
    "bus": ("truck", "car"),
    "person": ("umbrella",),
    "bicycle": ("motorcycle",),
    "motorcycle": ("bicycle",),
}
LINES = {"gate": LineSettings.model_validate({"from": (LINE_X, SIZE.height), "to": (LINE_X, 0)})}
ZONES = {
    "yard": ZoneSettings.model_validate(
        {"polygon": [(ZONE_X[0], 0), (ZONE_X[1], 0), (ZONE_X[1], SIZE.height), (ZONE_X[0], SIZE.height)]}
    )
}
CONFIDENCE = 0.35
LIMIT = 0.05
"""The maximum fraction of crossings that are counted wrongly."""
CLASSES: tuple[tuple[str, ...] | None, ...] = (None, ("car", "truck", "bus"), ("car",), ("person",))
"""The settings of ``classes`` with which scenes are counted."""


@dataclass(frozen=True)
class Faults:
    """How badly the detector sees; all are probabilities for one object in one frame, but ``tremble``."""

    flicker: float = 0.0
    """The label is that of a similar class."""
    twin: float = 0.0
    """There is a second box, with the label of a similar class; that of a person is also a person."""
    part: float = 0.0
    """There is a second box of the same class, around a part of the object."""
    tremble: float = 0.01
    """The standard deviation of the edges, as a fraction of the object's size."""
    miss: float = 0.0
    """There is no box."""
    score: tuple[float, float] = (0.8, 0.05)
    """The mean and the standard deviation of the score."""
    false: float = 0.0
    """There is a strong box without an object, for one or two frames (per frame, not per object)."""
    ghosts: int = 0
    """The number of places with a weak box all the time, which is strong now and then."""


@dataclass(frozen=True)
class Passage:
    """An object that moves through the scene."""

    label: str
    begin_s: float
    speed: float
    """Pixels per second, negative to the left."""
    y: float
    """The lower edge, pixels."""
    size: tuple[float, float]
    pause_s: float = 0.0
    """The time for which it stops on the line."""
    returns: bool = False
    """Whether it turns back after the pause."""
    hidden: tuple[float, float] = (0.0, 0.0)
    """It is not visible while its middle is between these x."""
    clearer: float = 0.0
    """What is added to the mean of its score."""

    def x(self, time_s: float) -> float:
        """Return its middle, pixels."""
        start = -150.0 if self.speed > 0 else SIZE.width + 150.0
        moved = self.speed * (time_s - self.begin_s)
        until_line = (LINE_X - start) / self.speed
        over = time_s - self.begin_s - until_line
        if over <= 0:
            return start + moved
        if over <= self.pause_s:
            return float(LINE_X)
        way = self.speed * (over - self.pause_s)
        return LINE_X - way if self.returns else LINE_X + way


@dataclass(frozen=True)
class Scene:
    """The objects of a scene and the faults of the detector that watches it."""

    name: str
    seconds: float
    passages: tuple[Passage, ...]
    faults: Faults = Faults()

    def has(self, classes: tuple[str, ...] | None) -> bool:
        """Return whether there are objects of these classes."""
        return classes is None or any(one.label in classes for one in self.passages)


def _lanes(
    seed: int, gap_s: float, kinds: Mapping[str, tuple[float, float]], speeds: tuple[float, float], seconds: float
) -> tuple[Passage, ...]:
    """Return objects in six lanes, three for each direction; those of a lane have one speed and do not touch."""
    draw = random.Random(seed)
    found: list[Passage] = []
    for lane in range(6):
        begin_s, speed = draw.uniform(0, gap_s), draw.uniform(*speeds) * (1 if lane % 2 else -1)
        while begin_s < seconds - 1580 / abs(speed):
            label = draw.choice(list(kinds))
            width, height = kinds[label]
            scale = 0.6 + 0.12 * lane
            found.append(Passage(label, begin_s, speed, 240 + 90 * lane, (width * scale, height * scale)))
            begin_s += gap_s * draw.uniform(1.0, 1.6) + 2.2 * width * scale / abs(speed)
    return tuple(found)


VEHICLES = {"car": (150.0, 80.0), "truck": (190.0, 110.0), "bus": (230.0, 120.0)}
PEOPLE = {"person": (50.0, 110.0)}


def _riders(passages: tuple[Passage, ...]) -> tuple[Passage, ...]:
    """Add the motorcycle of each person: about the same box (IoU 0.75), and seen more clearly."""
    return tuple(
        one
        for rider in passages
        for one in (
            rider,
            replace(
                rider,
                label="motorcycle",
                y=rider.y + 0.06 * rider.size[1],
                clearer=0.05,
                size=(rider.size[0] * 1.2, rider.size[1]),
            ),
        )
    )


def scenes() -> list[Scene]:
    """Return all scenes."""
    cars = _lanes(1, 4.0, VEHICLES, (250, 420), 150)
    people = _lanes(2, 4.0, PEOPLE, (90, 160), 150)
    pole = [replace(one, hidden=(LINE_X - 50, LINE_X + 50)) if number % 2 else one for number, one in enumerate(cars)]
    queue = _lanes(3, 9.0, VEHICLES, (300, 400), 480)
    stops = [replace(one, pause_s=6.0, returns=number % 2 == 1) for number, one in enumerate(queue)]
    mixed = (
        *_lanes(4, 4.0, VEHICLES, (250, 420), 150),
        *_lanes(5, 8.0, PEOPLE | {"bicycle": (120.0, 90.0)}, (140, 200), 150),
    )
    riders = _riders(_lanes(6, 4.0, {"person": (90.0, 120.0)}, (200, 350), 150))
    weak = Faults(flicker=0.3, twin=0.5, part=0.05, tremble=0.03, miss=0.08, score=(0.5, 0.14), false=0.03, ghosts=2)
    return [
        Scene("clear", 150, cars),
        Scene("labels flicker", 150, cars, Faults(flicker=0.25, twin=0.7, tremble=0.02, score=(0.6, 0.1))),
        Scene("several boxes", 150, cars, Faults(twin=0.9, part=0.3, tremble=0.02, score=(0.7, 0.1))),
        Scene("hidden at the line", 150, tuple(pole), Faults(flicker=0.2, twin=0.4, tremble=0.02, miss=0.05, score=(0.6, 0.1))),
        Scene("stops on the line", 486, tuple(stops), Faults(flicker=0.2, twin=0.4, tremble=0.04, score=(0.6, 0.1))),
        Scene("weak detector", 150, cars, weak),
        Scene("people, weak detector", 150, people, replace(weak, flicker=0.1)),
        Scene("mixed, weak detector", 150, mixed, replace(weak, flicker=0.25)),
        Scene("riders", 150, riders, Faults(twin=0.5, tremble=0.02, miss=0.03, score=(0.6, 0.08))),
    ]


@dataclass
class Count:
    """What a scene's truth and a stream's events say."""

    crossed: int
    expected: int
    """The crossings, both directions."""
    wrong: int
    """The sum of the errors of both directions."""
    occupied_s: float
    expected_s: float
    """The time in the zone, summed over objects, seconds."""
    occupancy_error: float
    """The mean difference between reported and true occupancy, objects, ignoring moments within 0.7 s of a change."""
    rows: int
    weak_rows: int
    """Rows below the minimum confidence."""
    doubles: int
    """Frames in which a number occurs twice, or a row has no number."""
    tracks: int


def _candidates(scene: Scene, time_s: float, draw: random.Random) -> tuple[NDArray[np.float32], NDArray[np.float32], list[int]]:
    """Return what the detector sees: boxes [K, 4], scores [K], classes."""
    faults, boxes, scores, classes = scene.faults, [], [], []

    def see(box: tuple[float, float, float, float], label: str, score: float) -> None:
        width, height = box[2] - box[0], box[3] - box[1]
        edges = [edge + draw.gauss(0, faults.tremble) * (height if at % 2 else width) for at, edge in enumerate(box)]
        clipped = [min(max(edge, 0.0), SIZE.height if at % 2 else SIZE.width) for at, edge in enumerate(edges)]
        if clipped[2] - clipped[0] > 12 and clipped[3] - clipped[1] > 12:
            boxes.append(clipped)
            scores.append(min(max(score, 0.02), 0.99))
            classes.append(LABELS.index(label))

    for one in scene.passages:
        x = one.x(time_s)
        if not time_s >= one.begin_s or not -150 <= x <= SIZE.width + 150 or one.hidden[0] < x < one.hidden[1]:
            continue
        if draw.random() < faults.miss:
            continue
        width, height = one.size
        box = (x - width / 2, one.y - height, x + width / 2, one.y)
        score = draw.gauss(*faults.score) + one.clearer
        others = SIMILAR[one.label]
        see(box, draw.choice(others) if draw.random() < faults.flicker else one.label, score)
        if draw.random() < faults.twin:
            see(box, "person" if one.label == "person" else draw.choice(others), score * draw.uniform(0.4, 0.95))
        if draw.random() < faults.part:
            part = (box[0], box[1], box[0] + width * draw.uniform(0.45, 0.58), box[3])
            see(part, one.label, score * draw.uniform(0.5, 0.9))
    if draw.random() < faults.false:
        x, y = draw.uniform(100, 1100), draw.uniform(100, 600)
        see((x, y, x + 80, y + 60), draw.choice(LABELS), draw.uniform(0.35, 0.6))
    for number in range(faults.ghosts):
        x = 470.0 + 260 * number
        see((x, 20, x + 60, 90), "umbrella", 0.4 if draw.random() < 0.01 else draw.uniform(0.08, 0.2))
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), classes


def watch(scene: Scene, fps: float, classes: tuple[str, ...] | None = None, seed: int = 7) -> Count:
    """Count a scene with the steps of a real stream.

    Args:
        scene: The scene.
        fps: The rate of results, frames per second.
        classes: The stream's setting of that name.
        seed: Where the detector's faults begin.
    """
    card = ModelCard.model_validate({"name": "weak", "input": {"width": 1280, "height": 720}, "labels": LABELS, "iou": 0.6})
    lane = Lane("main", NullEngine(card), make_selector(card, None, None, None))
    policy = StreamPolicy(track=True, confidence=CONFIDENCE, classes=classes)
    command = add_stream(SourceSpec("s", "video", ("s.mp4",)), lane, policy, zones=ZONES, lines=LINES)
    steps = make_steps(command, card, None, SYSTEM_CLOCK)
    assert command.selector is not None
    assert steps.zones is not None
    completion = Completion(StreamRecord("s", "s.mp4"), SYSTEM_CLOCK, StageAccount())
    identity, draw = letterbox(SIZE, SIZE, "stretch", (0, 0, 0)), random.Random(f"{seed} {scene.name} {fps}")
    events: list[SceneEvent] = []
    count = Count(0, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0, 0)
    numbers: set[int] = set()
    samples, error, last_change_s, before = 0, 0, -9.0, 0
    for index in range(int(scene.seconds * fps)):
        time_s = index / fps
        boxes, scores, kinds = _candidates(scene, time_s, draw)
        outputs = {"boxes": boxes[None], "scores": scores[None], "class_ids": np.array(kinds, np.int32)[None]}
        (found,) = select(outputs, [identity], command.selector)
        pending = PendingResult(Frame("s", index, time_s, NoImage(SIZE), Trace()), lane.engine, found)
        completion.follow(pending, steps)
        events += pending.events
        rows = pending.detections
        ids = [] if rows.track_ids is None else rows.track_ids.tolist()
        numbers.update(ids)
        count.rows += len(rows)
        count.weak_rows += int((rows.scores < np.float32(CONFIDENCE)).sum())
        count.doubles += len(set(ids)) < len(ids) or 0 in ids
        inside = _inside(scene, time_s, classes)
        count.expected_s += inside / fps
        count.occupied_s += steps.zones.occupancy()["yard"] / fps
        if inside != before:
            before, last_change_s = inside, time_s
        if time_s - last_change_s >= 0.7:
            samples += 1
            error += abs(steps.zones.occupancy()["yard"] - inside)
    count.tracks = len(numbers - {0})
    count.occupancy_error = error / max(1, samples)
    crossings = Counter(event.direction for event in events if event.kind == "cross")
    truth = Counter(_crossings(scene, classes))
    count.crossed, count.expected = sum(crossings.values()), sum(truth.values())
    count.wrong = sum(abs(crossings[way] - truth[way]) for way in ("in", "out"))
    return count


def _wanted(scene: Scene, classes: tuple[str, ...] | None) -> Iterator[Passage]:
    return (one for one in scene.passages if classes is None or one.label in classes)


def _crossings(scene: Scene, classes: tuple[str, ...] | None) -> Iterator[str]:
    for one in _wanted(scene, classes):
        if not one.returns:
            yield "in" if one.speed > 0 else "out"


def _inside(scene: Scene, time_s: float, classes: tuple[str, ...] | None) -> int:
    return sum(time_s >= one.begin_s and ZONE_X[0] < one.x(time_s) < ZONE_X[1] for one in _wanted(scene, classes))
