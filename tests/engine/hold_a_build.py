"""A builder in a child process: prints that it holds the lock, and builds when it reads a line, unless it is killed before."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.engine.cache_keys import KEY
from vision_infer.engine.store.cache import EngineCache

if __name__ == "__main__":
    cache = EngineCache(Path(sys.argv[1]))
    with cache.building(KEY, lambda _: None) as content:
        (cache.folder / f"{KEY.digest()}.tmp-1").mkdir()  # like an unfinished store
        print("holds it" if content is None else "was built", flush=True)
        sys.stdin.readline()
        cache.store(KEY, b"built by the first")
