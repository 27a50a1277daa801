"""The timing caches of TensorRT, kept beside the plans: with them a second build of a like network takes a fraction of the time.

32 bytes   SHA-256 of what follows
the cache  as the runtime serialized it
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
"""a larger one is begun anew"""


def timings_file(folder: Path, api: Api, target: GpuTarget) -> Path:
    """Where the timings of a runtime's version on a GPU are kept, in the folder of the engine cache."""
    which = hashlib.sha256(target.told().encode()).hexdigest()[:8]
    return folder / f"timings-{api.runtime}-{api.version}-{which}.bin"


def read_timings(path: Path) -> bytes:
    """What was kept; empty where there is nothing, or it is damaged or not to be trusted: then all is timed again."""
    try:
        refuse_untrusted(path)
        content = path.read_bytes()
    except (EngineError, OSError):
        return b""
    checksum, timings = content[:32], content[32:]
    return timings if hashlib.sha256(timings).digest() == checksum else b""


def keep_timings(path: Path, timings: bytes, api: Api) -> None:
    """Keep a timing cache, and remove those of other versions of the runtime; the later of two builders at once wins.

    Raises:
        OSError: it cannot be written; what was there before is still there.
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
