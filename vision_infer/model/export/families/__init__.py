"""The export families, one file each with a constant ``FAMILY``, and those that are refused. A new file is found by its name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING, cast

from vision_infer.core.errors import ModelError, UsageError
from vision_infer.model.export.family import REFUSED, Refused

if TYPE_CHECKING:
    from vision_infer.model.export.family import Family


def family_names() -> tuple[str, ...]:
    """Return the names of all families, sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return tuple(sorted([*found, *REFUSED]))


def read_family(name: str) -> Family | Refused:
    """Return the family with a name of :func:`family_names`, without importing its library."""
    return REFUSED.get(name) or cast("Family", importlib.import_module(f"{__name__}.{name}").FAMILY)


def find_family(text: str) -> tuple[str, Family, str]:
    """Return the name, the family and the variant of ``FAMILY`` or ``FAMILY/VARIANT``.

    Raises:
        UsageError: The family or variant does not exist.
        ModelError: The family cannot be exported.
    """
    name, slash, variant = text.partition("/")
    known = family_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        hint += "Run 'vision-infer model export --list' to list all, or use MODULE:FUNCTION."
        raise UsageError(f"unknown family '{name}'", hint)
    family = read_family(name)
    if isinstance(family, Refused):
        raise ModelError(f"{family.title} cannot be exported: {family.reason}", "See 'model export --list'.")
    if slash and variant not in family.variants:
        raise UsageError(f"{family.title} has no variant '{variant}'", f"Choose one of {', '.join(family.variants)}.")
    return name, family, variant or family.variants[0]
