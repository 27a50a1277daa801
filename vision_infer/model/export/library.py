"""PyTorch and its libraries: imported at first use, with a one-line error if they are missing."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vision_infer.core.errors import ModelError
from vision_infer.core.packages import install


def load(module: str) -> Any:
    """Import a module of the export extra.

    Raises:
        ModelError: It or a dependency is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of the libraries about each other
            return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: an incompatible shared library
        package = module.partition(".")[0]
        missing = getattr(error, "name", None) or package
        reason = (
            f"{missing} is not installed" if isinstance(error, ModuleNotFoundError) else f"{package} cannot be loaded: {error}"
        )
        raise ModelError(f"the export needs PyTorch: {reason}", install("export")) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress warnings and logs of libraries, and the checks of transformers that fix a batch."""
    before = os.environ.get("TRANSFORMERS_DISABLE_TORCH_CHECK")
    os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if before is None:
            del os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"]
        else:
            os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = before
