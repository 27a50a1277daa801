"""Tracking: finds the detections of successive frames that are the same object.

Implemented from Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box" (2022). Its idea: detections
of low score are kept, because a partly hidden object still gives one. They are matched last, with tracks that have no better
match, and never begin a track. Differences from the paper:

- Classes are never mixed: a track keeps its first class.
- Time comes from presentation times, not from counting frames, so that skipped frames and any frame rate work.
- A track gets a number once its second detection confirms it, so that flicker uses no numbers.

A pipeline with tracking selects at :func:`selection_confidence`; the tracker then passes on detections that reach the user's
confidence, and those that belong to a track.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze import motion
from vision_infer.analyze.assignment import assign
from vision_infer.analyze.motion import STEP_S, Motion
from vision_infer.analyze.select import minimum_scores
from vision_infer.core.detections import Detections

LOW_SCORE = 0.1
"""The minimum score of a detection that keeps a track alive."""

_SAME_OBJECT_IOU = 0.85
"""The IoU above which a live and a lost track are the same object."""


def selection_confidence(confidence: float) -> float:
    """Return the minimum confidence for selection with tracking, given the user's confidence."""
    return min(confidence, LOW_SCORE)


@dataclass(slots=True)
class _Tracks:
    """All tracks in memory."""

    ids: NDArray[np.int32]
    """The track numbers, int32 [T], from 1; 0 until confirmed."""
    class_ids: NDArray[np.int32]
    """The class numbers, int32 [T]."""
    since_s: NDArray[np.float64]
    """The tracker's time of the first detection, float64 [T], seconds."""
    seen_s: NDArray[np.float64]
    """The tracker's time of the last detection, float64 [T], seconds."""
    lost: NDArray[np.bool_]
    """Whether the track was missing in the last frame, bool [T]."""
    motion: Motion
    """The motion, float64 [5, T, 4]."""

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the tracks outside the mask, bool [T]."""
        if not mask.all():
            self.ids, self.class_ids, self.lost = self.ids[mask], self.class_ids[mask], self.lost[mask]
            self.since_s, self.seen_s = self.since_s[mask], self.seen_s[mask]
            self.motion = self.motion[:, mask]

    def add(self, boxes: NDArray[np.float32], class_ids: NDArray[np.int32], now_s: float) -> None:
        """Begin an unconfirmed track with each box, float32 [N, 4]."""
        count = len(boxes)
        if count:
            now = np.full(count, now_s)
            self.ids = np.concatenate((self.ids, np.zeros(count, np.int32)))
            self.class_ids = np.concatenate((self.class_ids, class_ids))
            self.since_s = np.concatenate((self.since_s, now))
            self.seen_s = np.concatenate((self.seen_s, now))
            self.lost = np.concatenate((self.lost, np.zeros(count, np.bool_)))
            self.motion = np.concatenate((self.motion, motion.begin(boxes)), axis=1)

    @classmethod
    def none(cls) -> _Tracks:
        ids, times = np.zeros(0, np.int32), np.zeros(0)
        return cls(ids, ids, times, times, np.zeros(0, np.bool_), motion.begin(np.zeros((0, 4))))


@dataclass(slots=True, kw_only=True)
class Tracker:
    """Tracks the objects of one stream. Not thread-safe."""

    confidence: float = 0.35
    """The score below which detections are passed on only if they belong to a track, 0–1."""
    high: float | None = None
    """The minimum score for the first association, 0–1; None: ``confidence``."""
    new: float | None = None
    """The minimum score to begin a track, 0–1; None: as ``high``."""
    low: float = LOW_SCORE
    """The minimum score for the second association, 0–1."""
    match_iou: float = 0.2
    """The IoU that matches of tracks and detections of high score must exceed (the figure of the paper)."""
    low_match_iou: float = 0.3
    """The same for detections of low score."""
    new_match_iou: float = 0.3
    """The same for unconfirmed tracks."""
    buffer_s: float = 1.0
    """The time for which a lost track is kept, seconds."""
    max_lost: int = 300
    """The maximum number of lost tracks that are kept, the most recent ones."""
    per_class: Mapping[int, float] = field(default_factory=dict)
    """The ``confidence`` of single classes, by class number, 0–1."""

    _tracks: _Tracks = field(default_factory=_Tracks.none, init=False, repr=False)
    _next_id: int = field(default=1, init=False, repr=False)
    _now_s: float = field(default=0.0, init=False, repr=False)
    _interval_s: float = field(default=math.inf, init=False, repr=False)
    _pts_s: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("confidence", "low", "match_iou", "low_match_iou", "new_match_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0 and 1, got {getattr(self, name)}")
        if not all(0 <= minimum <= 1 for minimum in self.per_class.values()):
            raise ValueError(f"per_class must be within 0 and 1, got {dict(self.per_class)}")
        # By default they follow the confidence, but not below the minimum of the second association.
        high = max(self.confidence, self.low) if self.high is None else self.high
        new = high if self.new is None else self.new
        if not self.low <= high <= new <= 1:
            raise ValueError(f"must be low <= high <= new <= 1, got low {self.low}, high {high}, new {new}")
        if not self.buffer_s > 0 or self.max_lost < 0:
            raise ValueError(f"buffer_s must be above 0 and max_lost at least 0, got {self.buffer_s} and {self.max_lost}")

    def update(self, detections: Detections, pts_s: float | None) -> Detections:
        """Follow the tracks into the next frame.

        Args:
            detections: The detections, selected at :func:`selection_confidence`; boxes in pixels of the source.
            pts_s: The presentation time, seconds. If it is missing or goes back, the frame counts as one step.

        Returns:
            The detections with ``track_ids``, in the same order, without those below ``confidence`` that have no track.
        """
        self._advance(pts_s)
        tracks, scores = self._tracks, detections.scores
        # 1. Match detections with tracks; those of high score without a track begin new ones below.
        shown, high, fresh_enough = self._by_score(detections)
        track_of = self._associate(detections, high)
        hit = np.flatnonzero(track_of >= 0)
        fresh = np.flatnonzero((track_of < 0) & fresh_enough)
        # 2. Correct and confirm the matched tracks; merge a lost one with a live one that is the same object.
        self._note(track_of[hit], detections.boxes[hit])
        if tracks.lost.any():
            self._merge_duplicates()
        ids = np.zeros(len(scores), np.int32)
        ids[hit] = tracks.ids[track_of[hit]]
        # 3. Drop and begin tracks.
        tracks.keep(tracks.ids > 0)  # tracks that this frame did not confirm were flicker
        self._forget_some()
        tracks.add(detections.boxes[fresh], detections.class_ids[fresh], self._now_s)
        passed = shown | (ids > 0)
        return Detections(
            detections.boxes[passed], scores[passed], detections.class_ids[passed], detections.label_names, ids[passed]
        )

    def stay(self, pts_s: float | None) -> None:
        """Advance the time without motion: detected tracks stay in place, lost tracks stay lost.

        Args:
            pts_s: The presentation time, seconds; see :meth:`update`.
        """
        self._let_pass(pts_s)
        tracks = self._tracks
        tracks.seen_s[~tracks.lost] = self._now_s
        tracks.motion[1, ~tracks.lost] = 0

    def _by_score(self, detections: Detections) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return masks, bool [N] each: passed on without a track, in the first association, able to begin a track."""
        scores = detections.scores
        if not self.per_class:  # one number for all: no array of limits
            shown = scores >= self.confidence
            high = scores >= (max(self.confidence, self.low) if self.high is None else self.high)
        else:
            minimum = minimum_scores(detections.class_ids, self.per_class, self.confidence)
            shown = scores >= minimum
            high = scores >= (np.maximum(minimum, self.low) if self.high is None else self.high)
        return shown, high, high if self.new is None else high & (scores >= self.new)

    def _advance(self, pts_s: float | None) -> None:
        """Move the clock and all tracks to the time of the frame; drop tracks that were lost for too long."""
        elapsed_s = self._let_pass(pts_s)
        if len(self._tracks.ids):
            self._tracks.motion = motion.predict(self._tracks.motion, elapsed_s / STEP_S)

    def _let_pass(self, pts_s: float | None) -> float:
        """Move the clock to the time of the frame, drop tracks that were lost for too long, and return the elapsed seconds."""
        if pts_s is not None and not math.isfinite(pts_s):
            pts_s = None
        elapsed_s = STEP_S
        if pts_s is not None and self._pts_s is not None and pts_s > self._pts_s:
            elapsed_s = pts_s - self._pts_s
        # A stream of low frame rate may miss a frame: its usual interval may be longer than the buffer.
        patience_s = max(self.buffer_s, 2 * self._interval_s)
        if self._now_s > 0:
            self._interval_s = elapsed_s
        self._pts_s = pts_s
        self._now_s += elapsed_s
        self._tracks.keep(self._now_s - self._tracks.seen_s <= patience_s + 1e-9)
        return elapsed_s

    def _associate(self, detections: Detections, high: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the index of the track of each detection, intp [N], -1 for none; ``high`` [N] masks the first association."""
        tracks, scores = self._tracks, detections.scores
        track_of = np.full(len(scores), -1, np.intp)
        if not len(tracks.ids) or not len(scores):
            return track_of
        overlap = box_overlap(motion.to_boxes(tracks.motion), detections.boxes)
        overlap[tracks.class_ids[:, None] != detections.class_ids] = 0
        confirmed = tracks.ids > 0
        _match(overlap, confirmed, high, self.match_iou, track_of)
        # Lost tracks take part, as in the paper: an object that reappears begins with a low score.
        _match(overlap, confirmed, ~high & (scores >= self.low), self.low_match_iou, track_of)
        _match(overlap, ~confirmed, high, self.new_match_iou, track_of)
        return track_of

    def _note(self, found: NDArray[np.intp], boxes: NDArray[np.float32]) -> None:
        """Correct the matched tracks by their detected boxes, float32 [F, 4]; the others are lost."""
        tracks = self._tracks
        tracks.lost[:] = True
        if len(found):
            tracks.lost[found] = False
            tracks.seen_s[found] = self._now_s
            tracks.motion[:, found] = motion.correct(tracks.motion[:, found], boxes)
            confirmed_now = found[tracks.ids[found] == 0]
            tracks.ids[confirmed_now] = np.arange(self._next_id, self._next_id + len(confirmed_now), dtype=np.int32)
            self._next_id += len(confirmed_now)
        # A height that keeps changing without detections would shrink to nothing or grow without bounds.
        tracks.motion[1, tracks.lost, 3] = 0

    def _merge_duplicates(self) -> None:
        """Merge a lost track with a live one that it overlaps; the number of the older one is kept."""
        tracks = self._tracks
        live = np.flatnonzero(~tracks.lost)
        gone = np.flatnonzero(tracks.lost & (tracks.ids > 0))
        boxes = motion.to_boxes(tracks.motion)
        same = box_overlap(boxes[live], boxes[gone]) > _SAME_OBJECT_IOU
        same &= tracks.class_ids[live][:, None] == tracks.class_ids[gone]
        for row, column in np.argwhere(same).tolist():
            winner, loser = live[row], gone[column]
            if tracks.ids[loser] == 0:
                continue
            if tracks.seen_s[loser] - tracks.since_s[loser] > tracks.seen_s[winner] - tracks.since_s[winner]:
                tracks.ids[winner], tracks.since_s[winner] = tracks.ids[loser], tracks.since_s[loser]
            tracks.ids[loser] = 0

    def _forget_some(self) -> None:
        """Drop the oldest lost tracks above the maximum."""
        tracks = self._tracks
        lost = np.flatnonzero(tracks.lost)
        excess = len(lost) - self.max_lost
        if excess > 0:
            mask = np.ones(len(tracks.ids), np.bool_)
            mask[lost[tracks.seen_s[lost].argsort(kind="stable")[:excess]]] = False
            tracks.keep(mask)


def _match(
    overlap: NDArray[np.float64],
    tracks: NDArray[np.bool_],
    detections: NDArray[np.bool_],
    min_iou: float,
    track_of: NDArray[np.intp],
) -> None:
    """Match the unmatched tracks and detections of the masks.

    The sum of the IoU above the minimum is maximized. A pair that is not above it gains nothing, so that no good match is
    replaced by two poor ones.

    Args:
        overlap: The IoU, float64 [T, N].
        tracks: The mask of tracks, bool [T].
        detections: The mask of detections, bool [N].
        min_iou: The IoU that a pair must exceed.
        track_of: The track of each detection, intp [N], -1 for none; it is written.
    """
    free = tracks.copy()
    free[track_of[track_of >= 0]] = False
    rows = free.nonzero()[0]
    columns = (detections & (track_of < 0)).nonzero()[0]
    if not len(rows) or not len(columns):
        return
    chosen_rows, chosen_columns = assign(np.maximum(overlap[np.ix_(rows, columns)] - min_iou, 0))
    track_of[columns[chosen_columns]] = rows[chosen_rows]


def box_overlap(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the IoU, float64 [N, M], of boxes [N, 4] and [M, 4], xyxy; 0 if neither has an area."""
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    inter = _area(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]))
    union = _area(a[..., 2:] - a[..., :2]) + _area(b[..., 2:] - b[..., :2]) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def _area(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area of boxes by their sides, [..., 2]; a negative side counts as 0."""
    area: NDArray[np.float64] = np.maximum(sides[..., 0], 0) * np.maximum(sides[..., 1], 0)
    return area
