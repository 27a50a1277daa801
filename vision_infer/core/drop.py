"""The reasons why a frame has no result. Each dropped frame is counted under one of them."""

from __future__ import annotations

from enum import Enum


class DropReason(Enum):
    """The reason why a frame was not inferred."""

    OUTDATED = "outdated"
    """The frame was recent enough after decoding, but older than the stream allows when the engine had capacity for it."""
    SUPERSEDED = "superseded"
    """A newer frame of the live stream replaced it in the mailbox."""
    NOT_REFERENCED = "not_referenced"
    """Decoding fell behind: the packet was skipped, because no other frame needs it."""
    TO_KEYFRAME = "to_keyframe"
    """Decoding fell behind, or began or was interrupted between key frames: the packet was skipped up to the next key frame."""
    UNDECODED = "undecoded"
    """The settings of the stream exclude it from decoding (key frames only, or reference frames only)."""
    DAMAGED = "damaged"
    """Packets of it are missing or damaged, and the decoder returned no frame for it."""
    STALE = "stale"
    """The decoded frame was older than the stream allows, after a stall or a burst."""
    LATE = "late"
    """The decoded frame was too old, like all others during the stall timeout: the cause is the network or the clock."""
    NO_KEYFRAME = "no_keyframe"
    """Only key frames are decoded, and the camera has sent none yet, or none for ten seconds."""
    BACKLOGGED = "backlogged"
    """The window of the live stream is full: the stages after the engine are too slow."""
    GATED = "gated"
    """The motion gate of the stream saw no change: the frame has a row, which repeats the last detections."""
    PACED = "paced"
    """The frame rate limit of the stream excluded it."""
    STOPPED = "stopped"
    """The run ended before the frame was inferred."""
    FAILED = "failed"
    """The engine failed on its batch."""
    HOOK = "hook"
    """The frame was inferred, and the user's hook discarded its row."""
