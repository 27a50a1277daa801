"""The tracks that a tracker has in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze import motion
from vision_infer.analyze.motion import Motion


@dataclass(slots=True)
class Tracks:
    """All tracks of a stream, an array for each property."""

    ids: NDArray[np.int32]
    """The track numbers, int32 [T], from 1; 0 until confirmed."""
    hits: NDArray[np.int32]
    """The number of detections, int32 [T]."""
    votes: NDArray[np.float32]
    """The sums of the scores by class, float32 [T, C]."""
    since_s: NDArray[np.float64]
    """The tracker's time of the first detection, float64 [T], seconds."""
    seen_s: NDArray[np.float64]
    """The tracker's time of the last detection, float64 [T], seconds."""
    strong_s: NDArray[np.float64]
    """The tracker's time of the last detection that reached the minimum confidence, float64 [T], seconds."""
    lost: NDArray[np.bool_]
    """Whether the track was missing in the last frame, bool [T]."""
    first: NDArray[np.float32]
    """The boxes of the first detections, float32 [T, 4]."""
    last: NDArray[np.float32]
    """The boxes of the last detections, float32 [T, 4]."""
    motion: Motion
    """The motion, float64 [5, T, 4]."""

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the tracks outside the mask, bool [T]."""
        if not mask.all():
            self.ids, self.hits, self.votes = self.ids[mask], self.hits[mask], self.votes[mask]
            self.since_s, self.seen_s, self.strong_s = self.since_s[mask], self.seen_s[mask], self.strong_s[mask]
            self.lost, self.first, self.last = self.lost[mask], self.first[mask], self.last[mask]
            self.motion = self.motion[:, mask]

    def add(self, boxes: NDArray[np.float32], class_ids: NDArray[np.int32], scores: NDArray[np.float32], now_s: float) -> None:
        """Begin an unconfirmed track with each box, float32 [N, 4]."""
        count = len(boxes)
        if count:
            now, votes = np.full(count, now_s), np.zeros((count, self.votes.shape[1]), np.float32)
            votes[np.arange(count), class_ids] = scores
            self.ids = np.concatenate((self.ids, np.zeros(count, np.int32)))
            self.hits = np.concatenate((self.hits, np.ones(count, np.int32)))
            self.votes = np.concatenate((self.votes, votes))
            self.since_s, self.seen_s = np.concatenate((self.since_s, now)), np.concatenate((self.seen_s, now))
            self.strong_s = np.concatenate((self.strong_s, now))
            self.lost = np.concatenate((self.lost, np.zeros(count, np.bool_)))
            self.first, self.last = np.concatenate((self.first, boxes)), np.concatenate((self.last, boxes))
            self.motion = np.concatenate((self.motion, motion.begin(boxes)), axis=1)

    def warp(self, affine: NDArray[np.float64]) -> None:
        """Move all tracks with the image, see :func:`vision_infer.analyze.motion.warp`."""
        if len(self.ids):
            self.motion = motion.warp(self.motion, affine)
            self.last = motion.to_boxes(motion.warp(motion.begin(self.last), affine)).astype(np.float32)

    def make_room(self, classes: int) -> None:
        """Count votes for at least this number of classes."""
        more = classes - self.votes.shape[1]
        if more > 0:
            self.votes = np.pad(self.votes, ((0, 0), (0, more)))

    @classmethod
    def none(cls) -> Tracks:
        ids, times, boxes = np.zeros(0, np.int32), np.zeros(0), np.zeros((0, 4), np.float32)
        return cls(
            ids, ids, np.zeros((0, 1), np.float32), times, times, times, np.zeros(0, np.bool_), boxes, boxes, motion.begin(boxes)
        )
