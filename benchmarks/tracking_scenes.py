"""Fabricated sequences of known truth for trackers: what a detector sees of people who walk, and the images of the camera.

The world is a textured plane with people on it. The camera shows a part of it, and may shake or pan. A person who is behind
another, or behind a pillar, is not detected, or with a low score shortly before. Boxes tremble, some are missed, and some are of
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 960, 540
BORDER = 400
"""The pixels of the world around the camera's first image."""
SECONDS = 12
PEOPLE = 12
MISSED, FALSE, TREMBLE = 0.08, 0.05, 0.02
"""The probability of a missed box, of a false one per frame, and the deviation of edges as a part of the height."""


@dataclass(frozen=True)
class Scene:
    """What is different in a sequence."""

    fps: float = 15.0
    shake: float = 0.0
    """The standard deviation of the camera's position around its place, pixels."""
    pan: float = 0.0
    """The speed of the camera while it pans, pixels per second; it stops and turns back."""
    pillars: int = 0
    sway: float = 0.0
    """How far people sway from their straight way, pixels."""
    gaps: float = 0.0
    """The probability per frame that the next 0.4 s are missing."""
    wall: float = 0.0
    """The width of a wall that hides people, pixels."""
    outside: float = 0.0
    """How far people go outside before they turn and come back, pixels; 0: they do not come back."""
    seconds: float = SECONDS


SCENES = {
    "crossing": Scene(),
    "hidden": Scene(pillars=4),
    "swaying": Scene(sway=60.0, pillars=2),
    "5 frames/s": Scene(fps=5.0, pillars=2),
    "gaps": Scene(gaps=0.04),
    "shake": Scene(shake=12.0, pillars=2),
    "pan": Scene(pan=500.0, pillars=2),
}
RETURNS = {
    "crossing": Scene(),
    "wall": Scene(wall=300.0, seconds=24.0),
    "returning": Scene(outside=250.0, seconds=40.0),
}
"""The scenes for re-identification: people are hidden for 2 to 7 s behind a wall, or come back after 4 to 12 s."""


@dataclass(frozen=True)
class FabricatedSequence:
    """A sequence: frame by frame."""

    times_s: NDArray[np.float64]
    detections: list[NDArray[np.float32]]
    """float32 [N, 5]: x1, y1, x2, y2 in pixels, and the score."""
    truth: list[NDArray[np.float64]]
    """float64 [N, 5]: the number of the person, and the box."""
    images: list[NDArray[np.uint8]]
    """uint8 [H, W]."""
    crops: list[list[NDArray[np.uint8]]]
    """The part of the image in color that each detection shows, uint8 [h, w, 3] RGB."""


def fabricate(scene: Scene, seed: int = 0, seconds: float | None = None) -> FabricatedSequence:
    """Return the sequence of a scene."""
    chance, seconds = np.random.default_rng(seed), seconds or scene.seconds
    people = [dress(np.random.default_rng((seed, number))) for number in range(PEOPLE)]
    world = _world(chance)
    speeds = chance.choice([-1, 1], PEOPLE) * chance.uniform(40, 150, PEOPLE), chance.uniform(-12, 12, PEOPLE)
    # Each is inside the image at a random time.
    at_s = chance.uniform(0, seconds, PEOPLE)
    begins = chance.uniform(0, WIDTH, PEOPLE) - speeds[0] * at_s, chance.uniform(160, HEIGHT - 20, PEOPLE) - speeds[1] * at_s
    heights, phases = chance.uniform(70, 150, PEOPLE), chance.uniform(0, 6.28, PEOPLE)
    pillars = [(place, 35.0) for place in chance.uniform(100, WIDTH - 100, scene.pillars)]
    pillars += [(WIDTH / 2, scene.wall / 2)] * (scene.wall > 0)
    times = np.arange(0, seconds, 1 / scene.fps)
    kept: list[float] = []
    until = 0.0
    for time_s in times.tolist():
        if time_s < until:
            continue
        kept.append(time_s)
        if chance.random() < scene.gaps:
            until = time_s + 0.4
    detections, truth, images, crops = [], [], [], []
    for time_s in kept:
        place = np.array([scene.pan / 2 * np.sin(2 * time_s), 0]) + chance.normal(0, scene.shake, 2) * [1, 0.6]
        place = np.clip(np.round(place), -BORDER, BORDER)
        x = begins[0] + speeds[0] * time_s + scene.sway * np.sin(phases + 2.5 * time_s) - place[0]
        foot = begins[1] + speeds[1] * time_s - place[1]
        if scene.outside:  # they walk to and fro
            x = _to_and_fro(x, -scene.outside, WIDTH + scene.outside)
            foot = _to_and_fro(foot, 160, HEIGHT - 20)
        boxes = np.stack([x - heights * 0.2, foot - heights, x + heights * 0.2, foot], axis=1)
        inside = (x > 0) & (x < WIDTH) & (foot > heights * 0.6) & (foot < HEIGHT)
        visible = _visible(boxes, foot, [(at - place[0], half) for at, half in pillars])
        truth.append(np.concatenate([np.arange(1, PEOPLE + 1)[:, None], boxes], axis=1)[inside & (visible > 0.1)])
        detections.append(_detected(boxes, heights, visible * inside, chance))
        images.append(_image(world, place.astype(int), boxes, foot, chance))
        view = color_view(images[-1], people, boxes, foot, phases + 6 * time_s, [(at - place[0], half) for at, half in pillars])
        crops.append([_crop(view, box) for box in detections[-1][:, :4]])
    return FabricatedSequence(np.array(kept), detections, truth, images, crops)


def _to_and_fro(value: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return values that turn at both ends."""
    return high - np.abs((value - low) % (2 * (high - low)) - (high - low))


def _crop(view: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    left, top = (int(max(edge, 0)) for edge in box[:2])
    right, bottom = min(int(box[2]) + 1, WIDTH), min(int(box[3]) + 1, HEIGHT)
    return view[top : max(bottom, top + 1), left : max(right, left + 1)].copy()


def dress(chance: np.random.Generator) -> NDArray[np.uint8]:
    """Return the colors of a person's hair, top and trousers, and of the stripes of the top, uint8 [4, 3] RGB."""
    return chance.integers(20, 235, (4, 3)).astype(np.uint8)


def color_view(
    image: NDArray[np.uint8],
    people: list[NDArray[np.uint8]],
    boxes: NDArray[np.float64],
    foot: NDArray[np.float64],
    steps: NDArray[np.float64],
    pillars: list[tuple[float, float]],
) -> NDArray[np.uint8]:
    """Return the image in color, uint8 [H, W, 3] RGB: dressed people who walk, in light that differs across the image."""
    view = np.repeat(image[..., None], 3, axis=2)
    for number in np.argsort(foot).tolist():
        hair, top, legs, stripes = (tuple(int(value) for value in color) for color in people[number])
        left, upper, right, lower = boxes[number].tolist()
        wide, high = right - left, lower - upper
        middle, stride = (left + right) / 2, np.sin(steps[number]) * wide * 0.3

        def at(x: float, y: float) -> tuple[int, int]:
            return round(x), round(y)

        for side in (-stride, stride):
            hip, shoe = at(middle, upper + 0.55 * high), at(middle + side, lower)
            cv2.line(view, hip, shoe, legs, max(1, round(wide * 0.22)))
        cv2.rectangle(view, at(left + 0.15 * wide, upper + 0.2 * high), at(right - 0.15 * wide, upper + 0.6 * high), top, -1)
        for part in (0.27, 0.41, 0.55):
            y = upper + part * high
            cv2.line(view, at(left + 0.15 * wide, y), at(right - 0.15 * wide, y), stripes, max(1, round(0.03 * high)))
        cv2.circle(view, at(middle, upper + 0.1 * high), round(0.1 * high), (224, 172, 140), -1)
        cv2.ellipse(view, at(middle, upper + 0.09 * high), at(0.1 * high, 0.1 * high), 0, 180, 360, hair, -1)
    for place, half in pillars:
        cv2.rectangle(view, (round(place - half), 0), (round(place + half), HEIGHT), (120, 116, 110), -1)
    light = np.linspace(0.7, 1.2, WIDTH)[None, :, None]
    return np.clip(view * light, 0, 255).astype(np.uint8)


def _visible(boxes: NDArray[np.float64], foot: NDArray[np.float64], pillars: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Return the visible part of each person: those in front have their feet lower."""
    width = boxes[:, 2] - boxes[:, 0]
    hidden = np.zeros(len(boxes))
    for number, box in enumerate(boxes):
        across = np.minimum(boxes[:, 2], box[2]) - np.maximum(boxes[:, 0], box[0])
        down = np.minimum(boxes[:, 3], box[3]) - np.maximum(boxes[:, 1], box[1])
        shared = np.clip(across, 0, None) * np.clip(down, 0, None) / (width[number] * (box[3] - box[1]))
        hidden[number] = shared[foot > foot[number]].max(initial=0)
        for pillar, half in pillars:
            behind = min(box[2], pillar + half) - max(box[0], pillar - half)
            hidden[number] = max(hidden[number], behind / width[number])
    return 1 - np.clip(hidden, 0, 1)


def _detected(
    boxes: NDArray[np.float64], heights: NDArray[np.float64], visible: NDArray[np.float64], chance: np.random.Generator
) -> NDArray[np.float32]:
    scores = np.clip(0.15 + 0.75 * visible + chance.normal(0, 0.06, len(boxes)), 0.01, 0.99)
    seen = (visible > 0.3) & (chance.random(len(boxes)) > MISSED)
    found = boxes + chance.normal(0, TREMBLE, boxes.shape) * heights[:, None]
    rows = np.concatenate([found, scores[:, None]], axis=1)[seen]
    if chance.random() < FALSE:
        x, y, high = chance.uniform(0, WIDTH), chance.uniform(150, HEIGHT), chance.uniform(70, 150)
        rows = np.concatenate([rows, [[x, y - high, x + high * 0.4, y, chance.uniform(0.3, 0.7)]]])
    return rows.astype(np.float32)


def _world(chance: np.random.Generator) -> NDArray[np.uint8]:
    size = (HEIGHT + 2 * BORDER, WIDTH + 2 * BORDER)
    layers = [np.asarray(cv2.GaussianBlur(chance.normal(0, 1, size), (0, 0), sigma)) * sigma for sigma in (2, 8, 30)]
    world = np.sum(layers, axis=0)
    return np.asarray((world - world.min()) / np.ptp(world) * 190 + 30, np.uint8)


def _image(
    world: NDArray[np.uint8],
    place: NDArray[np.intp],
    boxes: NDArray[np.float64],
    foot: NDArray[np.float64],
    chance: np.random.Generator,
) -> NDArray[np.uint8]:
    left, top = BORDER + place
    image = world[top : top + HEIGHT, left : left + WIDTH].copy()
    for number in np.argsort(foot).tolist():
        x1, y1, x2, y2 = (round(edge) for edge in boxes[number].tolist())
        cv2.rectangle(image, (x1, y1), (x2, y2), 60 + 13 * number, -1)
    return np.clip(image + chance.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
