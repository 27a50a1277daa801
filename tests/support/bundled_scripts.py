"""The scripts next to the bundled models, as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from tests.support.media import ROOT


@contextmanager
def bundled_script(name: str) -> Iterator[ModuleType]:
    """Import ``models/NAME.py``, which can import its neighbors, under a separate name until the context ends."""
    path = ROOT / "models" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"models_{name.replace('-', '_').replace('/', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    yield module
    del sys.modules[spec.name]
