"""The user's hook: a function that is found by its name, and called so that its errors do not end the run."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from vision_infer.core.details import Keypoints, Masks, RotatedBoxes
from vision_infer.core.detections import Detections
from vision_infer.core.errors import UsageError
from vision_infer.core.result import Result
from vision_infer.pipeline.stream_record import StreamRecord

Hook: TypeAlias = Callable[[Result], Result | None]
"""Takes each result; returns it, one with other detections, or None for no row."""

_KEPT = ("stream", "frame", "pts_s", "size", "model", "engine", "file")
_MAX_LOGGED = 20
"""The maximum number of different errors of a hook that are logged; all errors are counted."""

_log = logging.getLogger("vision_infer.hook")


def load_hook(name: str) -> Hook:
    """Import the function ``module:function`` from the current folder or from the installed packages.

    Raises:
        UsageError: The module cannot be imported, or has no such function.
    """
    where = f"--hook {name}"
    module_name, _, path = name.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{path}".split(".")):
        raise UsageError(
            f"{where}: not in the form MODULE:FUNCTION", "Write --hook filters:only_large for filters.py in this folder."
        )
    found: Any = _import(module_name, where)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"{where}: module {module_name} has no function {path}", "Check the name.")
    if inspect.iscoroutinefunction(found):
        raise UsageError(f"{where}: the function is async", "Write it with def; it is called on another thread.")
    hook: Hook = found
    return hook


class GuardedHook:
    """Calls a hook. Its exceptions are counted, and the first of each kind is logged; the result continues unchanged.

    Args:
        hook: The function.
        name: The name of the hook in messages.
    """

    def __init__(self, hook: Hook, name: str) -> None:
        self._hook = hook
        self._name = name
        self._file = getattr(getattr(hook, "__code__", None), "co_filename", None)
        self._logged: set[tuple[str, str]] = set()

    def __call__(self, result: Result, record: StreamRecord) -> Result | None:
        """Return the hook's result; count its errors in ``record``."""
        try:
            return _checked(self._hook(result), result)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code: its errors must not end the run
            record.hook_errors += 1
            self._log(error)
            return result

    def _log(self, error: BaseException) -> None:
        kind, place = type(error).__name__, _place(error, self._file)
        if (kind, place) in self._logged or len(self._logged) >= _MAX_LOGGED:
            return
        self._logged.add((kind, place))
        text = " ".join(str(error).split())
        _log.warning(
            "hook %s: %s: %s (%s); the result is unchanged, and further errors of this kind are only counted",
            self._name,
            kind,
            text,
            place,
        )


def _checked(changed: Any, result: Result) -> Result | None:
    if changed is None:
        return None
    if not isinstance(changed, Result):
        raise TypeError(f"must return a Result or None, got {type(changed).__name__}")
    if changed is not result:
        for name in _KEPT:
            if getattr(changed, name) != getattr(result, name):
                raise ValueError(f"may change the detections only, changed {name} to {getattr(changed, name)!r}")
    _check_detections(changed.detections)
    return changed


def _check_detections(found: Any) -> None:
    """Refuse detections that a sink could not write, because that would end the run."""
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


def _place(error: BaseException, file: str | None) -> str:
    """Return ``file:line`` of an error, in the hook's own file if the error passed through it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    frame = (own or list(frames))[-1]
    return "the returned value" if frame.filename == __file__ else f"{frame.filename}:{frame.lineno}"


def _import(module_name: str, where: str) -> Any:
    # The current folder is first while the hook is imported, and last afterwards: a file of the user with the name of one of our
    # libraries must not replace it when the library is imported later.
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            hint = f"Put it in {folder}, or install its package."
            raise UsageError(f"{where}: module {error.name} not found", hint) from error
        failure = f"{type(error).__name__}: {error}"
        raise UsageError(f"{where}: importing {module_name} failed: {failure}", "Add --debug to see where.") from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:  # a service loads hooks many times
            sys.path.append(folder)
