"""PyTorch and the libraries around it: imported when first used, and one line where they are missing."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vision_infer.core.errors import ModelError

EXTRA = "vision-infer[export]"


def load(module: str) -> Any:
    """A module of the export extra.

    Raises:
        ModelError: it, or what it needs, is not here; names the extra.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, about each other
            return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that does not fit this machine
        package = module.partition(".")[0]
        missing = getattr(error, "name", None) or package
        reason = f"{missing} is missing" if isinstance(error, ModuleNotFoundError) else f"{package} cannot be loaded: {error}"
        raise ModelError(f"export needs PyTorch: {reason}", f"pip install '{EXTRA}'") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Let libraries keep their warnings and logs to themselves, and transformers leave out the checks that fix a batch."""
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
