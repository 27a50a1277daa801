"""Check what a hook returns, and find the place of its errors."""

from __future__ import annotations

import json
import traceback
from typing import Any

import numpy as np

from vision_infer.core.details import Keypoints, Masks, RotatedBoxes
from vision_infer.core.detections import Detections
from vision_infer.core.result import Result

MAX_EXTRA = 65_536
"""The maximum length of the extra fields of a result, characters of JSON."""
_KEPT = ("stream", "frame", "pts_s", "size", "model", "engine", "file")


def checked(changed: Any, result: Result) -> Result | None:
    """Return what a hook has returned for a result; refuse what a sink could not write, because that would end the run.

    Raises:
        TypeError, ValueError: It is not a result, or one with invalid values.
    """
    if changed is None:
        return None
    if not isinstance(changed, Result):
        raise TypeError(f"must return a Result or None, got {type(changed).__name__}")
    if changed is not result:
        for name in _KEPT:
            if getattr(changed, name) != getattr(result, name):
                raise ValueError(f"may change the detections and extra only, changed {name} to {getattr(changed, name)!r}")
    _check_detections(changed.detections)
    if changed.extra is not None:
        _check_extra(changed.extra)
    return changed


def _check_extra(extra: Any) -> None:
    if not isinstance(extra, dict):
        raise TypeError(f"extra must be a dict, got {type(extra).__name__}")
    size = len(json.dumps(extra, allow_nan=False))
    if size > MAX_EXTRA:
        raise ValueError(f"extra must be at most {MAX_EXTRA} characters of JSON, got {size}")


def _check_detections(found: Any) -> None:
    if not isinstance(found, Detections):
        raise TypeError(f"detections must be Detections, got {type(found).__name__}")
    tracks = found.track_ids
    kinds = (
        found.boxes.dtype.kind
        + found.scores.dtype.kind
        + found.class_ids.dtype.kind
        + ("i" if tracks is None else tracks.dtype.kind)
    )
    if kinds not in ("ffii", "ffiu", "ffui", "ffuu"):
        raise TypeError("boxes and scores must be of floats, class_ids and track_ids of integers")
    if found.identities is not None and found.identities.dtype.kind not in "iu":
        raise TypeError("identities must be integers")
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
        raise ValueError("boxes and scores must be finite")
    match found.details:
        case None:
            pass
        case Keypoints(points=values) | RotatedBoxes(values=values) | Masks(boxes=values):
            if not np.isfinite(values).all():
                raise ValueError("details must be finite")
        case _:
            raise TypeError(f"details must be Keypoints, Masks or RotatedBoxes, got {type(found.details).__name__}")
    if found.label_names is not None and not all(isinstance(label, str) for label in found.label_names):
        raise TypeError("label_names must be strings")


def file_of(hook: Any) -> str | None:
    """Return the file of a hook's code; None if there is none."""
    return getattr(getattr(hook, "__code__", None), "co_filename", None)


def place_of(error: BaseException, file: str | None) -> str:
    """Return ``file:line`` of an error, in the hook's own file if the error passed through it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    frame = (own or list(frames))[-1]
    return "the returned value" if frame.filename == __file__ else f"{frame.filename}:{frame.lineno}"
