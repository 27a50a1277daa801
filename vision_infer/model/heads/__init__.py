"""The families of networks, one file each. A file placed here is found by its name; nothing else has to change."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING, cast

from vision_infer.core.errors import ModelError

if TYPE_CHECKING:
    from vision_infer.model.head import Head


def head_names() -> tuple[str, ...]:
    """Names of all heads, sorted; none of them is imported for that."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def find_head(name: str) -> Head:
    """The head of a name.

    Raises:
        ModelError: there is none; names those there are.
    """
    known = head_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ModelError(f"unknown head '{name}'", f"{hint}heads: {', '.join(known)}")
    return cast("Head", importlib.import_module(f"{__name__}.{name}"))
