"""The timing caches of TensorRT, stored next to the plans: they make a second build of a similar model several times faster."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.checked_file import read_checked, write_checked
from vision_infer.engine.tensorrt.target import GpuTarget


def timings_file(folder: Path, api: Api, target: GpuTarget) -> Path:
    """Return the file of the timings of a runtime's version on a GPU, in the folder of the engine cache."""
    which = hashlib.sha256(target.describe().encode()).hexdigest()[:8]
    return folder / f"timings-{api.runtime}-{api.version}-{which}.bin"


def read_timings(path: Path) -> bytes:
    """Return the stored timings; empty if they are missing, damaged or not trusted: then all kernels are timed again."""
    return read_checked(path) or b""


def store_timings(path: Path, timings: bytes, api: Api) -> None:
    """Store a timing cache, and remove those of other versions of the runtime.

    Raises:
        OSError: It cannot be written; the earlier file is unchanged.
    """
    write_checked(path, timings)
    for other in path.parent.glob(f"timings-{api.runtime}-[0-9]*.bin*"):
        if not other.name.startswith(f"timings-{api.runtime}-{api.version}-"):
            other.unlink(missing_ok=True)
