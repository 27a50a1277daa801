"""The model families, one file each: defaults, recognition, decoding and its reference. A new file is found by its name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING, cast

from vision_infer.core.errors import ModelError

if TYPE_CHECKING:
    from vision_infer.model.head import Head


def head_names() -> tuple[str, ...]:
    """Return the names of all heads, sorted, without importing them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def find_head(name: str) -> Head:
    """Return the head with a name.

    Raises:
        ModelError: No head has this name.
    """
    known = head_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise ModelError(f"unknown head '{name}'", f"{hint}The heads are {', '.join(known)}.")
    return cast("Head", importlib.import_module(f"{__name__}.{name}"))
