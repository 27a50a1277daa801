"""A result on its way to many readers: chosen and written at most once for each kind of filter, however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from vision_infer.core.result import Result
from vision_infer.core.scene_event import SceneEvent

FilterKey: TypeAlias = tuple[frozenset[str] | None, float]


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """What a reader of results wants to see."""

    streams: frozenset[str] | None = None
    """names of streams, which need not exist yet; None: all"""
    classes: frozenset[str] | None = None
    """labels of detections, and of events in zones and at lines; None: all"""
    min_score: float = 0.0
    """of detections, 0–1"""
    only_with_detections: bool = False
    """leave out results without any of the chosen detections or events"""

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
        """The result with the chosen detections and events only."""
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
        return len(result.detections) > 0 or len(result.events) > 0

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
    found = result.detections
    keep = found.scores >= np.float32(wanted.min_score)
    classes = wanted.classes
    if classes is None:
        return replace(result, detections=found[keep])
    keep &= _labelled(found.labels, classes)
    return replace(result, detections=found[keep], events=tuple(one for one in result.events if one.label in classes))


def _labelled(labels: Iterable[str], classes: frozenset[str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.fromiter((label in classes for label in labels), np.bool_)
