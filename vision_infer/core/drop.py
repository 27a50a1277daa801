"""Why a frame did not become a result. Every drop has one of these names and is counted under it."""

from __future__ import annotations

from enum import Enum


class DropReason(Enum):
    """Why a frame was not inferred."""

    SUPERSEDED = "superseded"
    """a newer frame of the live stream took its place in the mailbox"""
    BACKLOGGED = "backlogged"
    """as many of the live stream's frames as its window allows are on their way already: what follows the engine is too slow"""
    PACED = "paced"
    """the stream's wanted rate left it out"""
    STOPPED = "stopped"
    """the run ended before its turn"""
    FAILED = "failed"
    """the engine failed on its batch"""
    HOOK = "hook"
    """it was inferred, and the user's hook wanted no row of it"""
