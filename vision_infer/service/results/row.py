"""A result on its way to many readers: chosen and written at most once for each kind of filter, however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from vision_infer.core.description import ClassScore, Description
from vision_infer.core.result import Result
from vision_infer.core.scene_event import SceneEvent

FilterKey: TypeAlias = tuple[frozenset[str] | None, float]


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """What a reader of results wants to see."""

    streams: frozenset[str] | None = None
    """names of streams, which need not exist yet; None: all"""
    classes: frozenset[str] | None = None
    """labels of detections, of events in zones and at lines, and of what a network for classification says; None: all"""
    min_score: float = 0.0
    """of detections, 0–1; of one that is chosen for what a second network says of it: the score of that"""
    only_with_detections: bool = False
    """leave out results without any of the chosen detections, events or descriptions of the whole picture"""

    @property
    def key(self) -> FilterKey | None:
        """What of it changes a row; None where rows are left as they are."""
        return None if self.classes is None and self.min_score <= 0 else (self.classes, self.min_score)


class Row:
    """A result, and what was made of it for its readers.

    Args:
        result: what a frame gave.
        number: of the result, over all streams, from 1.
    """

    __slots__ = ("_chosen", "_texts", "number", "result")

    def __init__(self, result: Result, number: int) -> None:
        self.result = result
        self.number = number
        self._chosen: dict[FilterKey, Result] = {}
        self._texts: dict[FilterKey | None, str] = {}

    def chosen(self, wanted: ResultFilter) -> Result:
        """The result with what is chosen of it only."""
        key = wanted.key
        if key is None:
            return self.result
        result = self._chosen.get(key)
        if result is None:
            result = self._chosen[key] = _choose(self.result, wanted)
        return result

    def holds(self, wanted: ResultFilter) -> bool:
        """Whether anything chosen is in it."""
        result = self.chosen(wanted)
        told = result.description
        described = told is not None and (bool(told.classes) or told.embedding is not None)
        return described or len(result.detections) > 0 or len(result.events) > 0

    def text(self, wanted: ResultFilter, skipped: int = 0, events: Sequence[SceneEvent] = ()) -> str:
        """One line of JSON, without the line end.

        Args:
            wanted: the reader's filter.
            skipped: results of the stream that the reader was too slow for, since the one that it got before.
            events: what happened in those.
        """
        key = wanted.key
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = self.chosen(wanted).to_json()
        if not skipped:
            return text
        missed = ', "skipped_events": ' + json.dumps([one.to_dict() for one in events], ensure_ascii=False) if events else ""
        return f'{text[:-1]}, "skipped": {skipped}{missed}}}'


def _choose(result: Result, wanted: ResultFilter) -> Result:
    found, classes = result.detections, wanted.classes
    keep = found.scores >= np.float32(wanted.min_score)
    if classes is not None:
        keep &= _labelled(found.labels, classes)
        if found.descriptions is not None:  # one may be chosen for what the second network says of it
            keep |= np.fromiter((_is_described(one, wanted) for one in found.descriptions), np.bool_, len(found))
    return replace(
        result,
        detections=found[keep],
        events=result.events if classes is None else tuple(one for one in result.events if one.label in classes),
        description=None if result.description is None else _described(result.description, wanted),
    )


def _is_described(told: Description | None, wanted: ResultFilter) -> bool:
    """Whether the most probable class is a chosen one."""
    return told is not None and told.best is not None and _is_wanted(told.best, wanted)


def _described(told: Description, wanted: ResultFilter) -> Description | None:
    """What is chosen of what is said of a whole picture; a vector is of no class."""
    if told.classes is None:
        return told if wanted.classes is None else None
    return replace(told, classes=tuple(one for one in told.classes if _is_wanted(one, wanted)))


def _is_wanted(one: ClassScore, wanted: ResultFilter) -> bool:
    return one.score >= wanted.min_score and (wanted.classes is None or one.label in wanted.classes)


def _labelled(labels: Iterable[str], classes: frozenset[str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.fromiter((label in classes for label in labels), np.bool_)
