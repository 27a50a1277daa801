"""The timing caches of TensorRT, stored next to the plans: they make a second build of a similar model several times faster.

32 bytes   SHA-256 of the cache
the cache  serialized by the runtime
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.store.trust import refuse_untrusted
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.target import GpuTarget

MAX_BYTES = 100_000_000
"""The maximum size of a stored cache; a larger one is discarded."""


def timings_file(folder: Path, api: Api, target: GpuTarget) -> Path:
    """Return the file of the timings of a runtime's version on a GPU, in the folder of the engine cache."""
    which = hashlib.sha256(target.describe().encode()).hexdigest()[:8]
    return folder / f"timings-{api.runtime}-{api.version}-{which}.bin"


def read_timings(path: Path) -> bytes:
    """Return the stored timings; empty if they are missing, damaged or not trusted: then all kernels are timed again."""
    try:
        refuse_untrusted(path)
        content = path.read_bytes()
    except (EngineError, OSError):
        return b""
    checksum, timings = content[:32], content[32:]
    return timings if hashlib.sha256(timings).digest() == checksum else b""


def store_timings(path: Path, timings: bytes, api: Api) -> None:
    """Store a timing cache, and remove those of other versions of the runtime; the later of two simultaneous builders wins.

    Raises:
        OSError: It cannot be written; the earlier file is unchanged.
    """
    if not timings or len(timings) > MAX_BYTES:
        return
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(hashlib.sha256(timings).digest())
            file.write(timings)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    for other in path.parent.glob(f"timings-{api.runtime}-[0-9]*.bin*"):
        if not other.name.startswith(f"timings-{api.runtime}-{api.version}-"):
            other.unlink(missing_ok=True)
