"""The model families, one file each: defaults, recognition, decoding and its reference. A new file is found by its name.

Installed packages add families as entry points of the group ``vision_infer.heads``: modules like those here.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING, cast

from vision_infer.core.errors import ModelError, UsageError
from vision_infer.core.packages import plugin, plugin_names

if TYPE_CHECKING:
    from vision_infer.model.head import Head

GROUP = "vision_infer.heads"
"""The entry points with which packages add heads."""


def head_names() -> tuple[str, ...]:
    """Return the names of all heads, sorted, without importing them."""
    return tuple(sorted({*_own_names(), *plugin_names(GROUP)}))


def _own_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def find_head(name: str) -> Head:
    """Return the head with a name.

    Raises:
        ModelError: No head has this name.
        UsageError: The head of an installed package cannot be imported.
    """
    if name in _own_names():
        return cast("Head", importlib.import_module(f"{__name__}.{name}"))
    added = plugin(GROUP, name)
    if added is None:
        known = head_names()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise ModelError(f"unknown head '{name}'", f"{hint}The heads are {', '.join(known)}.")
    for part in ("DEFAULTS", "recognize", "append", "reference"):
        if not hasattr(added, part):
            raise UsageError(
                f"{GROUP} {name}: has no {part}", "Its package must give a module like vision_infer.model.heads.yolox."
            )
    return cast("Head", added)
