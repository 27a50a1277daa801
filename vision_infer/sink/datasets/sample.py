"""Samples: the frames that are worth labeling, chosen while the frames arrive, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from math import floor, inf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.image import Image
from vision_infer.core.result import Result

DEFAULT_SAMPLES = 100
_GRID = 16
"""The width and height to which an image is reduced for comparison, pixels."""


class Sampler(Protocol):
    """Chooses frames. One thread at a time calls it."""

    def offer(self, name: str, result: Result, image: Image) -> list[str] | None:
        """Choose a frame, and return the names of the earlier ones that it replaces; None: it is not chosen.

        Args:
            name: A unique name of the frame.
            result: Its result.
            image: Its pixels.
        """
        ...


Difference = Callable[[Result, Image], tuple[float, float]]
"""Returns the difference between a result and that of another model on the same image: the number of detections that only one of
them has, and the difference of the others. Larger tuples are larger differences."""


def sampler_of(sample: str, samples: int | None, difference: Difference | None = None) -> Sampler:
    """Return the sampler of a setting: ``uncertain``, ``diverse``, ``disagree`` or ``every:N``.

    Args:
        sample: The setting.
        samples: The maximum number of frames; None: 100, and for ``every:N`` unlimited.
        difference: For ``disagree``, compares the result with that of another model.
    """
    if sample == "disagree" and difference is not None:
        return MostDisputed(samples or DEFAULT_SAMPLES, difference)
    if sample == "uncertain":
        return LeastCertain(samples or DEFAULT_SAMPLES)
    if sample == "diverse":
        return MostDiverse(samples or DEFAULT_SAMPLES)
    return EveryNth(int(sample.removeprefix("every:")), samples)


class EveryNth:
    """Chooses every n-th frame of each stream, until ``limit`` frames are chosen."""

    def __init__(self, n: int, limit: int | None) -> None:
        self._n = n
        self._limit = inf if limit is None else limit
        self._chosen = 0
        self._seen: dict[str, int] = {}

    def offer(self, name: str, result: Result, image: Image) -> list[str] | None:  # noqa: ARG002
        """Choose every n-th frame, beginning with the first."""
        seen = self._seen.get(result.stream, 0)
        self._seen[result.stream] = seen + 1
        if seen % self._n or self._chosen >= self._limit:
            return None
        self._chosen += 1
        return []


class LeastCertain:
    """Chooses the frames with the least certain detection, at most one in each second of a stream.

    The margin of a detection with score s is |s − (1 − s)|, that between the class and "no object"; with a model for
    classification, that between the first and the second class. Frames without detections are not chosen.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._best: dict[tuple[str, int], tuple[tuple[float, ...], str]] = {}
        """The margin and the name of the chosen frame in each second."""

    def _margin(self, result: Result, image: Image) -> tuple[float, ...] | None:  # noqa: ARG002
        margin = margin_of(result)
        return None if margin is None else (margin,)

    def offer(self, name: str, result: Result, image: Image) -> list[str] | None:
        """Choose the frame if its margin is less than that of one in the same second, or of the most certain one."""
        margin = self._margin(result, image)
        if margin is None:
            return None
        moment = (result.stream, result.frame if result.pts_s is None else floor(result.pts_s))
        replaced = moment if moment in self._best else None
        if replaced is None and len(self._best) >= self._limit:
            replaced = max(self._best, key=lambda one: self._best[one][0])
        if replaced is not None and margin >= self._best[replaced][0]:
            return None
        gone = [] if replaced is None else [self._best.pop(replaced)[1]]
        self._best[moment] = (margin, name)
        return gone


class MostDisputed(LeastCertain):
    """Chooses the frames on which two models differ most, at most one in each second of a stream. Others are not chosen."""

    def __init__(self, limit: int, difference: Difference) -> None:
        super().__init__(limit)
        self._difference = difference

    def _margin(self, result: Result, image: Image) -> tuple[float, ...] | None:
        alone, inside = self._difference(result, image)
        return (-alone, -inside) if alone or inside else None


def margin_of(result: Result) -> float | None:
    """Return the margin of the least certain detection, 0–1; None if nothing was found."""
    classes = None if result.description is None else result.description.classes
    if classes:
        return classes[0].score - (classes[1].score if len(classes) > 1 else 0.0)
    scores = result.detections.scores
    return float(np.abs(2 * scores - 1).min()) if len(scores) else None


class MostDiverse:
    """Chooses frames that are far from each other: when a new frame is farther from all others than the closest pair, it replaces
    one of that pair.

    Frames are compared by the mean embedding of their detections, if there is a secondary model for embeddings, or by the
    embedding of the image; otherwise by the image itself, reduced to 16 × 16 pixels. Memory is ``limit``² × 4 bytes.
    """

    def __init__(self, limit: int) -> None:
        self._names: list[str] = []
        self._limit = limit
        self._points = np.zeros((limit, 0), np.float32)
        self._apart = np.full((limit, limit), np.inf, np.float32)
        """The distance between each pair; infinite to itself."""
        self._embedded = False

    def offer(self, name: str, result: Result, image: Image) -> list[str] | None:
        """Choose the frame if the chosen ones are farther apart with it."""
        embedding = _embedding(result)
        gone: list[str] = []
        if embedding is not None and not self._embedded:  # the frames before were compared by their images
            self._embedded = True
            gone, self._names = self._names, []
        elif embedding is None and self._embedded:
            return None
        point = _reduced(image) if embedding is None else embedding
        if not self._names:
            self._points = np.zeros((self._limit, len(point)), np.float32)
        count = slot = len(self._names)
        distances = np.linalg.norm(self._points[:count] - point, axis=1)
        if count == self._limit:
            slot = int(self._apart.argmin()) // self._limit
            closest = self._apart[slot].min()
            distances[slot] = np.inf
            if distances.min(initial=np.inf) <= closest:
                return None
            gone.append(self._names[slot])
            self._names[slot] = name
        elif distances.min(initial=np.inf) == 0:
            return None
        else:
            self._names.append(name)
        self._points[slot] = point
        self._apart[slot, :count] = self._apart[:count, slot] = distances
        return gone


def _embedding(result: Result) -> NDArray[np.float32] | None:
    descriptions = (result.description, *(result.detections.descriptions or ()))
    found = [one.embedding for one in descriptions if one is not None and one.embedding is not None]
    return np.mean(found, axis=0, dtype=np.float32) if found else None


def _reduced(image: Image) -> NDArray[np.float32]:
    from vision_infer.core.opencv import cv2

    small = cv2.resize(image.to_rgb(), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).ravel() / np.float32(255)
