"""Find the user's hook by its name: a function of a module, or an entry point of an installed package."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from vision_infer.core.errors import UsageError
from vision_infer.core.packages import plugin
from vision_infer.core.result import Result
from vision_infer.pipeline.hooks.frame import HookFrame

Hook: TypeAlias = Callable[[HookFrame, Result], Result | None]
"""Takes each frame and its result; returns the result, changed or not, or None for no row."""
GROUP = "vision_infer.hooks"
"""The entry points with which packages add hooks."""


def load_hook(name: str, folder: Path | None = None) -> Hook:
    """Import a hook.

    Args:
        name: ``module:function``, or the name of an entry point.
        folder: The folder that is searched first, before the installed packages. Defaults to the current folder.

    Raises:
        UsageError: The module cannot be imported, or has no such function.
    """
    where = f"hook {name}"
    module_name, colon, path = name.partition(":")
    if not colon and (added := plugin(GROUP, name)) is not None:
        return _function(added, where)
    if not all(part.isidentifier() for part in f"{module_name}.{path}".split(".")):
        raise UsageError(
            f"{where}: not in the form MODULE:FUNCTION, and no installed package has a hook of this name",
            "Write filters:only_large for the function only_large in filters.py.",
        )
    found = _import(module_name, where, str((folder or Path()).absolute()))
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise UsageError(f"{where}: module {module_name} has no function {path}", "Check the name.")
    return _function(found, where)


def _function(found: Any, where: str) -> Hook:
    if not callable(found):
        raise UsageError(f"{where}: is not a function", "Check the name.")
    if inspect.iscoroutinefunction(found):
        raise UsageError(f"{where}: the function is async", "Write it with def; it is called on another thread.")
    try:
        inspect.signature(found).bind(None, None)
    except TypeError:
        raise UsageError(f"{where}: the function does not take (frame, result)", "Write def name(frame, result).") from None
    except ValueError:  # a function in C does not report what it takes
        pass
    hook: Hook = found
    return hook


def _import(module_name: str, where: str, folder: str) -> Any:
    # The folder is first while the hook is imported, and last afterwards: a file of the user with the name of one of our
    # libraries must not replace it when the library is imported later.
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
