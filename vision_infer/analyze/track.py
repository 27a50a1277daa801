"""Tracking: finds the detections of successive frames that are the same object.

Based on Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box" (2022). Its idea: detections of low
score are kept, because a partly hidden object still gives one. They are matched last, with tracks that have no better match, and
never begin a track. Differences from the paper:

- An object is one track, whatever classes its detections have: the track's class is the one with the highest sum of scores over
  its life. A detection of a class that the track has not had yet, or that is not similar to its class, must overlap it more.
- Only confirmed tracks are reported: those with several detections. Detections below the minimum confidence extend a track but
  are not reported.
- Time comes from presentation times, so that skipped frames and any frame rate work. What is still unmatched is matched by
  distance, because at a low frame rate the boxes of a fast object do not overlap.

A pipeline with tracking selects the detections of the wanted classes and of those in their groups, down to the tracker's floor.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze import motion
from vision_infer.analyze.matching import box_overlap, match, nearness, same_object
from vision_infer.analyze.motion import STEP_S
from vision_infer.analyze.select import minimum_scores
from vision_infer.analyze.similar import Groups, group_numbers
from vision_infer.analyze.track_table import Tracks
from vision_infer.core.detections import Detections

MATCH_IOU, LOW_MATCH_IOU = 0.2, 0.3
"""The IoU that matches must exceed (the figures of the paper); the second for low scores and unconfirmed tracks."""
_OTHER_CLASS = 0.3
"""How much more a detection must overlap a track that had no detection of its class, or whose class is of another group."""
_CLASS_S = 0.3
"""The time without detections, seconds, after which a track gets no detection of a class that it did not have."""
_SAME_OBJECT_IOU = 0.85
"""The IoU above which a live and a lost track, or tracks of different groups of classes, are the same object."""
_DOUBLE_IOU = 0.45
"""The IoU above which an unconfirmed track without a detection is a second track of an object."""
HITS = 3
"""The number of detections that confirm a track; at less than about seven frames per second, two."""
_LONG_INTERVAL_S = 0.15
UNCONFIRMED_S = 0.2
"""The time after which an unconfirmed track without detections is dropped, seconds."""
STRONG_S = 1.0
"""The time for which a track is followed by detections of low score only, seconds."""


@dataclass(slots=True, kw_only=True)
class Tracker:
    """Tracks the objects of one stream. Not thread-safe."""

    confidence: float = 0.35
    """The minimum score of a reported detection, and of one that begins a track, 0–1."""
    per_class: Mapping[int, float] = field(default_factory=dict)
    """The ``confidence`` of single classes, by class number, 0–1."""
    floor: float = 0.1
    """The minimum score of a detection that extends a track, 0–1."""
    classes: Collection[int] | None = None
    """The classes of the tracks to report; None: all."""
    agnostic: bool = True
    """Whether a track may have detections of several classes."""
    groups: Groups = None
    """The groups of similar classes; two objects of different groups, such as a rider and a motorcycle, may be in one place."""
    buffer_s: float = 1.5
    """The time for which a lost track is kept, seconds."""
    max_lost: int = 300
    """The maximum number of lost tracks that are kept, the most recent ones."""

    followed: Detections = field(default_factory=Detections.empty, init=False, repr=False)
    """The detections of the last frame that belong to confirmed tracks, also those of low score, with ``track_ids``."""
    started: dict[int, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False)
    """For each track that the last frame has confirmed: the box of its first detection, float32 [4]."""

    _tracks: Tracks = field(default_factory=Tracks.none, init=False, repr=False)
    _next_id: int = field(default=1, init=False, repr=False)
    _now_s: float = field(default=0.0, init=False, repr=False)
    _interval_s: float = field(default=math.inf, init=False, repr=False)
    _pts_s: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("confidence", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0 and 1, got {getattr(self, name)}")
        if not all(0 <= minimum <= 1 for minimum in self.per_class.values()):
            raise ValueError(f"per_class must be within 0 and 1, got {dict(self.per_class)}")
        if not self.buffer_s > 0 or self.max_lost < 0:
            raise ValueError(f"buffer_s must be above 0 and max_lost at least 0, got {self.buffer_s} and {self.max_lost}")

    def update(self, detections: Detections, pts_s: float | None) -> Detections:
        """Follow the tracks into the next frame.

        Args:
            detections: The detections, selected down to the floor; boxes in pixels of the source.
            pts_s: The presentation time, seconds. If it is missing or goes back, the frame counts as one step.

        Returns:
            The detections of confirmed tracks that reach the minimum confidence, with ``track_ids`` and their tracks' classes.
        """
        elapsed_s = self._advance(pts_s)
        tracks, class_ids = self._tracks, detections.class_ids
        if len(class_ids):
            tracks.make_room(int(class_ids.max()) + 1)
        # 1. Match detections with tracks.
        high = self._reach_minimum(detections.scores, class_ids)
        track_of, overlap = self._associate(detections, high, elapsed_s)
        hit = (track_of >= 0).nonzero()[0]
        found = track_of[hit]
        # 2. Correct and confirm the matched tracks; merge a lost one with a live one that is the same object.
        self._note(found, hit, detections, high)
        if tracks.lost.any():
            self._merge_duplicates()
        self._report(found, hit, detections)
        # 3. Begin and drop tracks.
        fresh = ((track_of < 0) & high).nonzero()[0]
        self._forget_some(overlap[:, hit])
        tracks.add(detections.boxes[fresh], class_ids[fresh], detections.scores[fresh], self._now_s)
        reported = self._reach_minimum(self.followed.scores, self.followed.class_ids)
        return self.followed if reported.all() else self.followed[reported]

    def move(self, affine: NDArray[np.float64]) -> None:
        """Move all tracks with the image, before :meth:`update`, when the camera has moved.

        Args:
            affine: The map of positions in the last frame to this one, float64 [2, 3], pixels of the source.
        """
        self._tracks.warp(affine)

    def stay(self, pts_s: float | None) -> None:
        """Advance the time without motion: detected tracks stay in place, lost tracks stay lost.

        Args:
            pts_s: The presentation time, seconds; see :meth:`update`.
        """
        elapsed_s = self._let_pass(pts_s)
        tracks = self._tracks
        tracks.seen_s[~tracks.lost] = self._now_s
        tracks.strong_s[~tracks.lost] += elapsed_s
        tracks.motion[1, ~tracks.lost] = 0
        self.started = {}

    def _reach_minimum(self, scores: NDArray[np.float32], class_ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return whether scores [N] reach the minimum confidence of their classes, bool [N]."""
        if not self.per_class:  # one number for all: no array of limits
            return scores >= self.confidence
        return scores >= minimum_scores(class_ids, self.per_class, self.confidence)

    def _advance(self, pts_s: float | None) -> float:
        """Move the clock and all tracks to the time of the frame; drop tracks that were lost for too long."""
        elapsed_s = self._let_pass(pts_s)
        if len(self._tracks.ids):
            self._tracks.motion = motion.predict(self._tracks.motion, elapsed_s / STEP_S)
        return elapsed_s

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

    def _associate(
        self, detections: Detections, high: NDArray[np.bool_], elapsed_s: float
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return the index of the track of each detection, intp [N], -1 for none, and their overlap, float64 [T, N].

        Args:
            detections: The detections.
            high: Whether each reaches the minimum confidence, bool [N].
            elapsed_s: The time since the last frame, seconds.
        """
        tracks, scores = self._tracks, detections.scores
        track_of = np.full(len(scores), -1, np.intp)
        if not len(tracks.ids) or not len(scores):
            return track_of, np.zeros((len(tracks.ids), len(scores)))
        boxes = motion.to_boxes(tracks.motion)
        overlap = box_overlap(boxes, detections.boxes)
        penalty = self._penalty(detections.class_ids, elapsed_s)
        if penalty is not None:
            overlap -= penalty
        confirmed = tracks.ids > 0
        match(overlap, confirmed, high, MATCH_IOU, track_of)
        if (track_of >= 0).all():  # the usual case
            return track_of, overlap
        # Lost tracks take part, as in the paper: an object that reappears begins with a low score.
        match(overlap, confirmed, ~high & (scores >= self.floor), LOW_MATCH_IOU, track_of)
        match(overlap, ~confirmed, high, LOW_MATCH_IOU, track_of)
        if (track_of[high] < 0).any() and len(tracks.ids) > (track_of >= 0).sum():
            near = self._nearness(boxes, detections.boxes, elapsed_s) - (0 if penalty is None else penalty)
            match(near, np.ones(len(tracks.ids), np.bool_), high, 0.0, track_of)
        return track_of, overlap

    def _penalty(self, class_ids: NDArray[np.int32], elapsed_s: float) -> NDArray[np.float64] | None:
        """Return what is subtracted from the overlap of tracks and detections [N] of other classes, float64 [T, N]; None: 0."""
        other = self._track_groups()[:, None] != np.array(group_numbers(class_ids.tolist(), self.groups))
        other |= self._tracks.votes[:, class_ids] <= 0
        if not other.any():
            return None
        # A track does not return with a new class after it was lost for a while: that is another object.
        allowed = self.agnostic & (self._now_s - self._tracks.seen_s < max(_CLASS_S, 2.5 * elapsed_s))
        return np.where(other, np.where(allowed, _OTHER_CLASS, 1.0)[:, None], 0.0)

    def _track_groups(self) -> NDArray[np.int64]:
        """Return the group of the class of each track, int64 [T]."""
        return np.array(group_numbers(self._tracks.votes.argmax(axis=1).tolist(), self.groups), np.int64)

    def _nearness(self, boxes: NDArray[np.float64], others: NDArray[np.float32], elapsed_s: float) -> NDArray[np.float64]:
        """Return how near detections are to the predicted boxes of tracks, float64 [T, N]: 1 in the same place, 0 out of reach.

        The reach grows with the time since the track was seen. It is great while the velocity is unknown.
        """
        tracks = self._tracks
        missing_s = self._now_s - tracks.seen_s
        reach = np.where(
            tracks.hits < 2, np.minimum(0.5 + 6 * missing_s, 2), np.minimum(0.5 + elapsed_s + 0.5 * (missing_s - elapsed_s), 1)
        )
        # An object that stops suddenly is at its last position, not at the predicted one.
        stopped = np.where(missing_s - elapsed_s < UNCONFIRMED_S, reach, 1e-9)
        return np.maximum(nearness(boxes, others, reach), nearness(tracks.last, others, stopped))

    def _note(self, found: NDArray[np.intp], hit: NDArray[np.intp], detections: Detections, high: NDArray[np.bool_]) -> None:
        """Correct the tracks ``found`` [F] by the detections ``hit`` [F]; the others are lost."""
        tracks, now_s = self._tracks, self._now_s
        self.started = {}
        tracks.lost[:] = True
        if len(found):
            tracks.lost[found] = False
            tracks.hits[found] += 1
            tracks.seen_s[found] = now_s
            tracks.strong_s[found[high[hit]]] = now_s
            tracks.votes[found, detections.class_ids[hit]] += detections.scores[hit]
            tracks.motion[:, found] = motion.correct(tracks.motion[:, found], detections.boxes[hit])
            tracks.last[found] = detections.boxes[hit]
            needed = HITS if self._interval_s < _LONG_INTERVAL_S else 2
            for track in found[(tracks.ids[found] == 0) & (tracks.hits[found] >= needed)].tolist():
                if 2 * tracks.hits[track] * self._interval_s > now_s - tracks.since_s[track]:  # in at least half of the frames
                    self._confirm(track)
        # A height that keeps changing without detections would shrink to nothing or grow without bounds.
        tracks.motion[1, tracks.lost, 3] = 0

    def _confirm(self, track: int) -> None:
        """Give a track a number, unless it is a second box of an object that has a track."""
        tracks = self._tracks
        groups = self._track_groups()
        # A rider and the motorcycle have different boxes; a person that is also seen as a dog has the same box twice.
        alike = (groups == groups[track]) | (box_overlap(tracks.last[track][None], tracks.last)[0] > _SAME_OBJECT_IOU)
        alike &= tracks.votes @ tracks.votes[track] > 0
        others = ((tracks.ids > 0) & ~tracks.lost & alike).nonzero()[0]
        if len(others) and same_object(tracks.last[track][None], tracks.last[others]).any():
            tracks.hits[track] = 1
            return
        tracks.ids[track] = self._next_id
        self.started[self._next_id] = tracks.first[track]
        self._next_id += 1

    def _report(self, found: NDArray[np.intp], hit: NDArray[np.intp], detections: Detections) -> None:
        """Set the detections ``hit`` [F] of the tracks ``found`` [F] that are followed."""
        tracks = self._tracks
        class_ids = tracks.votes[found].argmax(axis=1).astype(np.int32)
        followed = (tracks.ids[found] > 0) & (self._now_s - tracks.strong_s[found] <= STRONG_S)
        if self.classes is not None:
            followed &= np.array([class_id in self.classes for class_id in class_ids.tolist()], np.bool_)
        if not followed.all():
            found, hit, class_ids = found[followed], hit[followed], class_ids[followed]
        self.followed = Detections(
            detections.boxes[hit],
            detections.scores[hit],
            class_ids,
            detections.label_names,
            tracks.ids[found],
            details=None if detections.details is None else detections.details[hit],
        )

    def _merge_duplicates(self) -> None:
        """Merge a lost track with a live one that it overlaps; the number of the older one is kept."""
        tracks = self._tracks
        live = (~tracks.lost & (tracks.ids > 0)).nonzero()[0]
        gone = (tracks.lost & (tracks.ids > 0)).nonzero()[0]
        if not len(live) or not len(gone):
            return
        boxes = motion.to_boxes(tracks.motion)
        same = box_overlap(boxes[live], boxes[gone]) > _SAME_OBJECT_IOU
        same &= tracks.votes[live] @ tracks.votes[gone].T > 0
        for row, column in np.argwhere(same).tolist():
            winner, loser = live[row], gone[column]
            if tracks.ids[loser] == 0:
                continue
            if tracks.seen_s[loser] - tracks.since_s[loser] > tracks.seen_s[winner] - tracks.since_s[winner]:
                self.started.pop(int(tracks.ids[winner]), None)
                tracks.ids[winner], tracks.since_s[winner] = tracks.ids[loser], tracks.since_s[loser]
            tracks.votes[winner] += tracks.votes[loser]
            tracks.ids[loser], tracks.seen_s[loser] = 0, -math.inf  # dropped below

    def _forget_some(self, overlap: NDArray[np.float64]) -> None:
        """Drop unconfirmed tracks that were not seen for a moment, and the oldest lost tracks above the maximum.

        Args:
            overlap: The overlap of all tracks with the detections of other tracks, float64 [T, F]. An unconfirmed track is
                dropped at once if its object has another track.
        """
        tracks = self._tracks
        if not tracks.lost.any():
            return
        current = self._now_s - tracks.seen_s < max(UNCONFIRMED_S, 1.5 * self._interval_s)
        if overlap.shape[1]:
            current &= ~tracks.lost | (overlap.max(axis=1) < _DOUBLE_IOU)
        tracks.keep((tracks.ids > 0) | current)
        lost = tracks.lost.nonzero()[0]
        excess = len(lost) - self.max_lost
        if excess > 0:
            mask = np.ones(len(tracks.ids), np.bool_)
            mask[lost[tracks.seen_s[lost].argsort(kind="stable")[:excess]]] = False
            tracks.keep(mask)
