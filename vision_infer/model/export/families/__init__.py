"""The families that can be exported, one file each. A file placed here is found by its name; nothing else has to change."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING, cast

from vision_infer.core.errors import ModelError, UsageError

if TYPE_CHECKING:
    from vision_infer.model.export.family import Family, FamilyFile, Refused


def family_names() -> tuple[str, ...]:
    """Names of all families, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def read_family(name: str) -> Family | Refused:
    """The family of a name in :func:`family_names`; no library is imported for that."""
    return cast("FamilyFile", importlib.import_module(f"{__name__}.{name}")).FAMILY


def find_family(text: str) -> tuple[str, Family, str]:
    """A family's name, the family, and the variant, of ``FAMILY`` or ``FAMILY/VARIANT``.

    Raises:
        UsageError: there is no such family or variant; names the nearest, or those there are.
        ModelError: the family cannot be exported; says why.
    """
    from vision_infer.model.export.family import Refused

    name, slash, variant = text.partition("/")
    known = family_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        hint += "'vision-infer model export --list' shows all, or write MODULE:FUNCTION"
        raise UsageError(f"unknown family '{name}'", hint)
    family = read_family(name)
    if isinstance(family, Refused):
        raise ModelError(f"{family.title} cannot be exported: {family.reason}", "choose another: see 'model export --list'")
    if slash and variant not in family.variants:
        raise UsageError(f"{family.title} has no variant '{variant}'", f"choose one of {', '.join(family.variants)}")
    return name, family, variant or family.variants[0]
