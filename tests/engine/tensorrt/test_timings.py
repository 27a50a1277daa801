"""Timing caches: passed to the next build, and discarded when they are damaged or of another version.

TensorRT-RTX times nothing and its timing cache is empty, but it accepts and returns one: so the tests use the real interface.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tensorrt.networks import OPTIONS, SM_89, api, graph
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.tensorrt import plans
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.checked_file import MAX_BYTES
from vision_infer.engine.tensorrt.compile import CompiledPlan, PlanOptions, compile_plan
from vision_infer.engine.tensorrt.plans import PlanJob, build_plan
from vision_infer.engine.tensorrt.target import GpuTarget
from vision_infer.engine.tensorrt.timings import read_timings, store_timings, timings_file

pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")


def timing_api() -> Api:
    return replace(api(), has_timings=True)


def test_the_next_build_receives_the_timings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bytes] = []

    def noted(*arguments: Any, timings: bytes, **others: Any) -> CompiledPlan:
        given.append(timings)
        return compile_plan(*arguments, timings=timings, **others)

    monkeypatch.setattr(plans, "compile_plan", noted)
    cache = EngineCache(tmp_path)
    for batch in (1, 2):
        build_plan(PlanJob(graph("embedder", "fp16"), timing_api(), SM_89, PlanOptions((batch,))), cache, lambda _: None)
    kept = read_timings(timings_file(tmp_path, timing_api(), SM_89))
    assert kept
    assert given == [b"", kept]
    assert len(cache.entries()) == 2  # the timings are not an entry, and do not disturb the cache
    cache.prune(0)
    assert read_timings(timings_file(tmp_path, timing_api(), SM_89)) == kept


@pytest.mark.parametrize("timings", [b"", b"from another program"])
def test_refused_timings_are_discarded(timings: bytes) -> None:
    made = compile_plan(graph("embedder", "fp16"), timing_api(), SM_89, OPTIONS, timings=timings)
    assert made.timings
    assert made.timings != timings


def test_a_runtime_without_timings_stores_none(tmp_path: Path) -> None:
    build_plan(PlanJob(graph("embedder", "fp16"), api(), SM_89, OPTIONS), EngineCache(tmp_path), lambda _: None)
    assert list(tmp_path.glob("timings-*")) == []


def test_damaged_and_untrusted_timings_are_ignored(tmp_path: Path) -> None:
    path = timings_file(tmp_path, api(), SM_89)
    assert read_timings(path) == b""
    store_timings(path, b"timings", api())
    assert read_timings(path) == b"timings"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert read_timings(path) == b""
    path.write_bytes(content)
    path.chmod(0o666)
    assert read_timings(path) == b""


def test_timings_of_other_versions_are_removed_and_of_other_gpus_kept(tmp_path: Path) -> None:
    old, other = replace(api(), version="1.6.0"), GpuTarget(("sm_120",))
    store_timings(timings_file(tmp_path, old, SM_89), b"old", old)
    store_timings(timings_file(tmp_path, api(), other), b"other", api())
    store_timings(timings_file(tmp_path, api(), SM_89), b"new", api())
    assert read_timings(timings_file(tmp_path, old, SM_89)) == b""
    assert read_timings(timings_file(tmp_path, api(), other)) == b"other"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_is_too_large_is_not_stored(tmp_path: Path) -> None:
    path = timings_file(tmp_path, api(), SM_89)
    store_timings(path, bytes(MAX_BYTES + 1), api())
    assert not path.exists()
