"""A builder in a process of its own: says that it holds the lock, then builds when its standard input says so, or is killed."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.engine.cache_keys import KEY
from vision_infer.engine.store.cache import EngineCache

if __name__ == "__main__":
    cache = EngineCache(Path(sys.argv[1]))
    with cache.building(KEY, lambda _: None) as content:
        (cache.folder / f"{KEY.digest()}.tmp-1").mkdir()  # as a store that has not ended
        print("holds it" if content is None else "was built", flush=True)
        sys.stdin.readline()
        cache.store(KEY, b"built by the first")
