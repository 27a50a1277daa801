"""From tracks to identities: the same number when a track ends and its object comes back as another track.

A track gets an identity once, after some embeddings: the one in the gallery with the most similar mean embedding, if that is
similar enough and no other track in the image has it, and a new one otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.assignment import assign
from vision_infer.analyze.identity.gallery import MAX_IDENTITIES, Appearance, Gallery
from vision_infer.analyze.motion import STEP_S
from vision_infer.core.detections import Detections

LOOKS = 3
"""The number of embeddings after which a track gets its identity."""
HELD_S = 0.3
"""The time without a detection, seconds, after which another track can get the identity: a tracker misses single frames."""


@dataclass(slots=True)
class _SeenTrack:
    seen_s: float
    appearance: Appearance | None = None
    """Its own until it has an identity, and then that of the identity, which cameras may share; None: no embedding yet."""
    identity: int = 0
    """0 until it is decided."""


class Identities:
    """Gives the tracks of one camera their identities. Not thread-safe.

    Args:
        gallery: The identities that may come back; cameras may share it.
    """

    threshold = 0.2
    """The cosine distance of two appearances below which they are of one object, 0–2."""
    timeout_s = 300.0
    """The time for which an object that is not seen is kept, seconds."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self._tracks: dict[int, _SeenTrack] = {}  # by number; the one that was seen last is the last one
        self._visible: list[_SeenTrack] = []
        self._now_s = -math.inf

    def assign(self, found: Detections, time_s: float | None) -> Detections:
        """Return the detections of a frame with ``identities`` in place of their embeddings.

        Args:
            found: The detections, with ``track_ids``, and with ``descriptions`` that have embeddings.
            time_s: The time of the frame, seconds; None: one step after the last frame.
        """
        now_s = self._pass(time_s)
        tracks = [0] * len(found) if found.track_ids is None else found.track_ids.tolist()
        before: dict[int, float] = {}
        for number in filter(None, tracks):
            track = self._tracks[number] = self._tracks.pop(number, _SeenTrack(now_s))
            before[number], track.seen_s = track.seen_s, now_s
        self._resolve(sorted(before, key=before.__getitem__, reverse=True))
        for number, description in zip(tracks, found.descriptions or (), strict=False):
            if number and description is not None and description.embedding is not None:
                _look(self._tracks[number], description.embedding)
        self._visible = [self._tracks[number] for number in before]
        self._decide([track for track in self._visible if not track.identity and _is_known(track)])
        self._keep_visible()
        identities = [self._tracks[number].identity if number else 0 for number in tracks]
        return replace(found, identities=np.array(identities, np.int32), descriptions=None)

    def stay(self, time_s: float | None) -> None:
        """Let time pass for a frame without motion: the objects in it stay known."""
        now_s = self._pass(time_s)
        for track in self._visible:
            track.seen_s = now_s
        self._keep_visible()

    def _pass(self, time_s: float | None) -> float:
        """Move the clock to the time of the frame, forget what is too old, and return the time."""
        elapsed_s = STEP_S if time_s is None else time_s - self._now_s
        self._now_s = max(0.0, self._now_s + STEP_S) if time_s is None else time_s
        self.gallery.forget(self._now_s)
        # At a very low frame rate the time between two frames may be longer than the time-out.
        oldest_s = self._now_s - max(self.timeout_s, 2 * elapsed_s)
        while self._tracks:
            number, track = next(iter(self._tracks.items()))
            if track.seen_s >= oldest_s and len(self._tracks) <= MAX_IDENTITIES:
                break
            del self._tracks[number]
        return self._now_s

    def _resolve(self, numbers: list[int]) -> None:
        """Take a track's identity away if another track has got it while this one was lost: one object is not in two places.

        Args:
            numbers: The numbers of the tracks in the frame; the first one keeps its identity.
        """
        taken: set[int] = set()
        for number in numbers:
            track = self._tracks[number]
            if track.identity in taken:
                track.identity, track.appearance = 0, None
            elif track.identity:
                taken.add(track.identity)

    def _decide(self, tracks: list[_SeenTrack]) -> None:
        """Give tracks their identities."""
        if not tracks:
            return
        held = {track.identity for track in self._tracks.values() if self._now_s - track.seen_s < HELD_S}
        known, distances = self.gallery.compare([track.appearance for track in tracks if track.appearance], held)
        rows, columns = assign(np.maximum(self.threshold - distances, 0))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            track, shared = tracks[row], self.gallery.appearance(known[column])
            if track.appearance is not None:
                shared.add(track.appearance.mean, track.appearance.looks)
            track.identity, track.appearance = known[column], shared
        for track in tracks:
            track.identity = track.identity or self.gallery.new()

    def _keep_visible(self) -> None:
        for track in self._visible:
            if track.identity and track.appearance is not None:
                self.gallery.see(track.identity, track.appearance, self._now_s + self.timeout_s)


def _look(track: _SeenTrack, embedding: NDArray[np.float32]) -> None:
    if track.appearance is None or track.appearance.mean.shape != embedding.shape:
        track.appearance = Appearance(np.array(embedding, np.float32))
    else:
        track.appearance.add(embedding)


def _is_known(track: _SeenTrack) -> bool:
    return track.appearance is not None and track.appearance.looks >= LOOKS
