"""A result for many clients: filtered and encoded at most once for each kind of filter, however many clients there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from vision_infer.core.description import ClassScore, Description
from vision_infer.core.details import Masks
from vision_infer.core.detections import Detections
from vision_infer.core.result import Result
from vision_infer.core.scene_event import SceneEvent

FilterKey: TypeAlias = tuple[frozenset[str] | None, float, int | None]


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """The results that a client wants."""

    streams: frozenset[str] | None = None
    """The names of streams, which need not exist yet; None means all."""
    classes: frozenset[str] | None = None
    """The labels of detections, of events in zones and at lines, and of classification models; None means all."""
    min_score: float = 0.0
    """The minimum confidence of detections, 0–1. For detections chosen by their secondary class: the score of that class."""
    only_with_detections: bool = False
    """Whether to skip results without any matching detection, event or image class."""
    mask_height: int | None = None
    """The maximum height of masks, pixels: larger ones are scaled down; None: they have the size of the image."""

    @property
    def key(self) -> FilterKey | None:
        """The part of the filter that changes rows; None if rows stay unmodified."""
        unchanged = self.classes is None and self.min_score <= 0 and self.mask_height is None
        return None if unchanged else (self.classes, self.min_score, self.mask_height)


class ResultRow:
    """A result together with its filtered copies and their JSON text.

    Args:
        result: The result of a frame.
        number: The sequence number of the result over all streams, from 1.
    """

    __slots__ = ("_chosen", "_texts", "number", "result")

    def __init__(self, result: Result, number: int) -> None:
        self.result = result
        self.number = number
        self._chosen: dict[FilterKey, Result] = {}
        self._texts: dict[FilterKey | None, str] = {}

    def chosen(self, wanted: ResultFilter) -> Result:
        """Return the result reduced to what the filter selects."""
        key = wanted.key
        if key is None:
            return self.result
        result = self._chosen.get(key)
        if result is None:
            result = self._chosen[key] = _choose(self.result, wanted)
        return result

    def holds(self, wanted: ResultFilter) -> bool:
        """Return whether the filter selects anything in the result."""
        return is_found(self.chosen(wanted)) or len(self.chosen(wanted).events) > 0

    def text(self, wanted: ResultFilter, skipped: int = 0, events: Sequence[SceneEvent] = ()) -> str:
        """Return one line of JSON, without the line end.

        Args:
            wanted: The client's filter.
            skipped: The number of results of the stream that the client missed since the previous one.
            events: The events in the skipped results.
        """
        key = wanted.key
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = self.chosen(wanted).to_json()
        if not skipped:
            return text
        missed = ', "skipped_events": ' + json.dumps([event.to_dict() for event in events], ensure_ascii=False) if events else ""
        return f'{text[:-1]}, "skipped": {skipped}{missed}}}'


def is_found(result: Result) -> bool:
    """Return whether the result has a detection, or a description that is not empty."""
    description = result.description
    described = description is not None and (bool(description.classes) or description.classes is None)
    return described or len(result.detections) > 0


def _choose(result: Result, wanted: ResultFilter) -> Result:
    detections, classes = result.detections, wanted.classes
    keep = detections.scores >= np.float32(wanted.min_score)
    if classes is not None:
        keep &= _labeled(detections.labels, classes)
        if detections.descriptions is not None:  # the class of the secondary model may match as well
            keep |= np.fromiter((_is_described(one, wanted) for one in detections.descriptions), np.bool_, len(detections))
    return replace(
        result,
        detections=_with_small_masks(detections[keep], wanted.mask_height),
        events=result.events if classes is None else tuple(event for event in result.events if event.label in classes),
        description=None if result.description is None else _described(result.description, wanted),
    )


def _with_small_masks(found: Detections, height: int | None) -> Detections:
    masks = found.details
    if height is None or not isinstance(masks, Masks) or masks.size.height <= height:
        return found
    factor = height / masks.size.height
    return replace(found, details=masks.scaled(factor, factor))


def _is_described(description: Description | None, wanted: ResultFilter) -> bool:
    """Return whether the most probable class of the secondary model matches."""
    return description is not None and description.best is not None and _is_wanted(description.best, wanted)


def _described(description: Description, wanted: ResultFilter) -> Description | None:
    """Return the matching classes of a whole image. An embedding has no class and is removed by a class filter."""
    if description.classes is None:
        return description if wanted.classes is None else None
    return replace(description, classes=tuple(one for one in description.classes if _is_wanted(one, wanted)))


def _is_wanted(score: ClassScore, wanted: ResultFilter) -> bool:
    return score.score >= wanted.min_score and (wanted.classes is None or score.label in wanted.classes)


def _labeled(labels: Iterable[str], classes: frozenset[str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.fromiter((label in classes for label in labels), np.bool_)
