"""The scripts beside the bundled network, by which it was made, as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from tests.support.media import BUNDLED


@contextmanager
def bundled_script(name: str) -> Iterator[ModuleType]:
    """``models/nanodet-416/NAME.py``, known under a name of its own until the context ends."""
    spec = importlib.util.spec_from_file_location(f"nanodet_416_{name}", BUNDLED.with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
