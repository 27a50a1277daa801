"""Why a frame did not become a result. Every drop has one of these names and is counted under it."""

from __future__ import annotations

from enum import Enum


class DropReason(Enum):
    """Why a frame was not inferred."""

    OUTDATED = "outdated"
    """it was young enough when it was decoded, and older than the stream allows when the engine had room for it"""
    SUPERSEDED = "superseded"
    """a newer frame of the live stream took its place in the mailbox"""
    NOT_REFERENCED = "not_referenced"
    """decoding fell behind: its packet was left out, since no other frame needs it"""
    TO_KEYFRAME = "to_keyframe"
    """decoding fell behind, or began or broke off in the middle: its packet was left out on the way to the next key frame"""
    UNDECODED = "undecoded"
    """the stream's settings want it not decoded (key frames only, or reference frames only)"""
    STALE = "stale"
    """it was decoded, and older than the stream allows: what a stall or a burst left behind"""
    LATE = "late"
    """it was decoded and too old, as all that have come for as long as the stall time-out: no burst, the network or the clock"""
    NO_KEYFRAME = "no_keyframe"
    """key frames only are wanted, and the camera has sent none yet, or none for ten seconds"""
    BACKLOGGED = "backlogged"
    """as many of the live stream's frames as its window allows are on their way already: what follows the engine is too slow"""
    GATED = "gated"
    """the stream's motion gate saw no change: it has a row, which repeats what was found last"""
    PACED = "paced"
    """the stream's wanted rate left it out"""
    STOPPED = "stopped"
    """the run ended before its turn"""
    FAILED = "failed"
    """the engine failed on its batch"""
    HOOK = "hook"
    """it was inferred, and the user's hook wanted no row of it"""
