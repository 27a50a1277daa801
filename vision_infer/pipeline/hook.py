"""The user's own function in the way of the results: found by its name, and called so that it can break nothing."""

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

from vision_infer.core.detections import Detections
from vision_infer.core.errors import UsageError
from vision_infer.core.result import Result
from vision_infer.pipeline.stream_record import StreamRecord

Hook: TypeAlias = Callable[[Result], Result | None]
"""takes each result; gives it back, or one with other detections, or None for no row"""

_KEPT = ("stream", "frame", "pts_s", "size", "model", "engine", "file")
_KINDS_TOLD = 20
"""different errors of a hook that are logged; all are counted"""

_log = logging.getLogger("vision_infer.hook")


def load_hook(name: str) -> Hook:
    """The function ``module:function``, imported from the current folder or from what is installed.

    Raises:
        UsageError: the module cannot be imported, or has no such function.
    """
    where = f"--hook {name}"
    module_name, _, path = name.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{path}".split(".")):
        raise UsageError(f"{where}: is no MODULE:FUNCTION", "write --hook filters:only_large for filters.py in this folder")
    found: Any = _import(module_name, where)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"{where}: the module {module_name} has no function {path}", "check the name")
    if inspect.iscoroutinefunction(found):
        raise UsageError(f"{where}: is an async function", "write it with def: it is called on a thread of its own")
    hook: Hook = found
    return hook


class GuardedHook:
    """Calls a hook. What it raises is counted, and the first error of each kind logged; the result goes on unchanged.

    Args:
        hook: the function.
        name: how it is called in messages.
    """

    def __init__(self, hook: Hook, name: str) -> None:
        self._hook = hook
        self._name = name
        self._file = getattr(getattr(hook, "__code__", None), "co_filename", None)
        self._told: set[tuple[str, str]] = set()

    def __call__(self, result: Result, record: StreamRecord) -> Result | None:
        """What the hook makes of the result; ``record`` counts its errors."""
        try:
            return _checked(self._hook(result), result)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code: nothing that it does may end the run
            record.hook_errors += 1
            self._tell(error)
            return result

    def _tell(self, error: BaseException) -> None:
        kind, place = type(error).__name__, _place(error, self._file)
        if (kind, place) in self._told or len(self._told) >= _KINDS_TOLD:
            return
        self._told.add((kind, place))
        text = " ".join(str(error).split())
        _log.warning(
            "hook %s: %s: %s (%s); its results go on unchanged, and more such errors are only counted",
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
    """What a sink could not write must not get there: it would end the run."""
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
    if found.label_names is not None and not all(isinstance(label, str) for label in found.label_names):
        raise TypeError("label_names must be strings")


def _place(error: BaseException, file: str | None) -> str:
    """``file:line``, in the hook's own file where the error came through it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    frame = (own or list(frames))[-1]
    return "what it returned" if frame.filename == __file__ else f"{frame.filename}:{frame.lineno}"


def _import(module_name: str, where: str) -> Any:
    # The current folder comes first while the hook is found, and last afterwards: a file of the user's that is called like one of
    # our libraries must not take its place when that is imported later on.
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            hint = f"it is looked for in {folder} and among the installed packages"
            raise UsageError(f"{where}: there is no module {error.name}", hint) from error
        failure = f"{type(error).__name__}: {error}"
        raise UsageError(f"{where}: importing {module_name} failed: {failure}", "--debug shows where") from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:  # a service loads hooks again and again
            sys.path.append(folder)
