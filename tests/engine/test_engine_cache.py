"""The cache: complete entries, one builder at a time, no files of other users, and a limited size."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.cache_keys import KEY, no_news
from tests.support.disks import ordinary_user, small_disk
from tests.support.media import ROOT
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.graph_facts import GraphFacts
from vision_infer.engine.registry import find_runtime, runtime_version
from vision_infer.engine.store.cache import EngineCache, engine_dir
from vision_infer.engine.store.engine_key import graph_sha256

DAY_S = 86_400


class Wall:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def names(cache: EngineCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir() if not path.name.endswith(".lock"))


def passport_text(cache: EngineCache) -> str:
    return (cache.folder / KEY.digest() / "passport.json").read_text()


def test_a_stored_engine_is_loaded(cache: EngineCache) -> None:
    assert cache.load(KEY) is None
    cache.store(KEY, b"engine")
    assert cache.load(KEY) == b"engine"
    assert cache.passport(KEY) is None
    cache.store_passport(KEY, '{"a": 1}')
    assert (cache.load(KEY), passport_text(cache)) == (b"engine", '{"a": 1}')
    cache.store(KEY, b"another")
    assert (cache.load(KEY), passport_text(cache)) == (b"another", '{"a": 1}')
    assert names(cache) == [KEY.digest()]
    (entry,) = cache.entries()
    assert entry.key == KEY
    assert entry.nbytes > len(b"another")


def test_a_passport_without_an_engine(cache: EngineCache) -> None:
    cache.store_passport(KEY, "{}")
    assert (cache.load(KEY), passport_text(cache)) == (None, "{}")


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, graph_sha256="b" * 64),
        replace(KEY, engine="openvino-cpu-int8"),
        replace(KEY, compute="bf16"),
        replace(KEY, runtime_version="2026.2.0"),
        replace(KEY, device="Another (avx2)"),
        replace(KEY, batch=2),
        replace(KEY, model="small"),
    ],
)
def test_every_field_of_the_key_has_to_match(cache: EngineCache, other: object) -> None:
    assert isinstance(other, type(KEY))
    cache.store(KEY, b"engine")
    assert cache.load(other) is None
    assert other.digest() != KEY.digest()


def test_the_key_of_a_real_engine(tmp_path: Path, card: ModelCard) -> None:
    runtime, facts = find_runtime("onnxruntime"), GraphFacts(card, "fp32")
    path = tmp_path / "x.onnx"
    path.write_bytes(b"graph")
    key = runtime.cpu_key(path, facts, "f32", 1)
    assert key.graph_sha256 == graph_sha256(path)
    assert key.runtime_version == runtime_version("onnxruntime") != ""
    assert key.device
    assert runtime_version("null") == ""
    path.write_bytes(b"another")
    assert runtime.cpu_key(path, facts, "f32", 1).digest() != key.digest()


def reason(cache: EngineCache, key: object = KEY) -> str:
    said: list[str] = []
    assert isinstance(key, type(KEY))
    with cache.building(key, said.append) as content:
        assert content is None
    (text,) = said
    return text


def test_the_message_says_why_an_engine_is_built(cache: EngineCache) -> None:
    assert reason(cache) == "building openvino-cpu-fp32 for tiny (not cached yet)"
    cache.store(KEY, b"engine")
    assert reason(cache, replace(KEY, runtime_version="2026.2.0")).endswith("runtime version is 2026.2.0, was 2026.1.0)")
    assert reason(cache, replace(KEY, graph_sha256="b" * 64)).endswith("not cached yet for this graph)")
    assert reason(cache, replace(KEY, device="B")).endswith("it was built for A Processor (avx2))")
    assert reason(cache, replace(KEY, engine="onnxruntime-cpu-fp32")).endswith("(not cached yet)")


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "entry", "no JSON", "not there"])
def test_a_damaged_engine_is_built_again(cache: EngineCache, damage: str) -> None:
    folder = cache.store(KEY, b"engine")
    file = folder / ("entry.json" if damage in ("entry", "no JSON") else "engine.bin")
    if damage == "not there":
        file.unlink()
    else:
        file.write_bytes({"cut": b"engin", "changed": b"Engine", "empty": b"", "entry": b"[]", "no JSON": b"{"}[damage])
    assert cache.load(KEY) is None
    assert damage == "not there" or reason(cache).endswith("the cached engine is damaged)")
    cache.store(KEY, b"again")
    assert cache.load(KEY) == b"again"


@pytest.fixture
def builder(cache: EngineCache) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of the key."""
    command = [sys.executable, "-m", "tests.engine.hold_a_build", str(cache.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds it\n"
        yield process
        process.kill()


def test_a_second_builder_waits_and_uses_what_the_first_built(cache: EngineCache, builder: subprocess.Popen[str]) -> None:
    said: list[str] = []

    def on_message(text: str) -> None:
        said.append(text)
        assert builder.stdin is not None
        builder.stdin.write("go on\n")
        builder.stdin.flush()

    with cache.building(KEY, on_message) as content:
        assert content == b"built by the first"
    assert said == ["another process is building openvino-cpu-fp32 for tiny: waiting for it"]


def test_a_killed_builder_does_not_block_the_next_one(cache: EngineCache, builder: subprocess.Popen[str]) -> None:
    assert cache.prune(0) == []  # being built: not removed
    assert len(names(cache)) == 1
    builder.kill()
    builder.wait(timeout=60)
    with cache.building(KEY, lambda _: None) as content:
        assert content is None
        cache.store(KEY, b"engine")
    assert cache.load(KEY) == b"engine"
    cache.prune(10**9)
    assert names(cache) == [KEY.digest()]
    assert [path for path in cache.folder.iterdir() if path.suffix == ".lock"] == []


def test_other_engines_can_be_built_at_the_same_time(cache: EngineCache, builder: subprocess.Popen[str]) -> None:
    other = replace(KEY, batch=8)
    with cache.building(other, lambda _: None):
        cache.store(other, b"eight")
    assert cache.load(other) == b"eight"


def test_a_full_disk_keeps_the_stored_engine(tmp_path: Path) -> None:
    with small_disk(64 * 1024) as disk:
        disk.chmod(0o700)
        cache = EngineCache(disk)
        cache.store(KEY, b"engine")
        for key in (KEY, replace(KEY, batch=2)):
            with pytest.raises(EngineError) as caught:
                cache.store(key, bytes(100_000))
            assert "openvino-cpu-fp32 cannot be stored: No space left" in caught.value.message
            assert "--engine-dir" in caught.value.hint
        assert cache.load(KEY) == b"engine"
        assert names(cache) == [KEY.digest()]


def test_a_read_only_folder() -> None:
    with ordinary_user() as home:
        folder = home / "engines"
        EngineCache(folder).store(KEY, b"engine")
        folder.chmod(0o500)
        cache = EngineCache(folder)
        assert cache.load(KEY) == b"engine"
        with pytest.raises(EngineError, match="Permission denied"):
            cache.store(replace(KEY, batch=2), b"more")
        folder.chmod(0o700)
        with pytest.raises(EngineError, match="cannot create"):
            EngineCache(Path("/proc/nothing/engines"))


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_other_users_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "engines"
    EngineCache(folder).store(KEY, b"engine")
    folder.chmod(mode)
    with pytest.raises(EngineError, match="other users may write") as caught:
        EngineCache(folder)
    assert "chmod go-w" in caught.value.hint


@pytest.mark.parametrize("part", ["", "engine.bin", "entry.json"])
def test_an_entry_that_other_users_can_write_to_is_refused(cache: EngineCache, part: str) -> None:
    folder = cache.store(KEY, b"engine")
    (folder / part).chmod(0o777)
    with pytest.raises(EngineError, match="other users may write"):
        cache.load(KEY)


def test_an_entry_behind_a_link_is_refused(cache: EngineCache, tmp_path: Path) -> None:
    folder = cache.store(KEY, b"engine")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match="is a symbolic link"):
        cache.load(KEY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_a_folder_of_another_user_is_refused(cache: EngineCache) -> None:
    folder = cache.store(KEY, b"engine")
    os.chown(folder / "engine.bin", 65_534, -1)
    with pytest.raises(EngineError, match="belongs to another user"):
        cache.load(KEY)


def test_a_generous_umask_changes_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache = EngineCache(tmp_path / "engines")
        cache.store(KEY, b"engine")
        cache.store_passport(KEY, "{}")
        assert cache.load(KEY) == b"engine"
    finally:
        os.umask(before)


def test_pruning_by_last_use_and_size(tmp_path: Path) -> None:
    wall = Wall()
    cache = EngineCache(tmp_path / "engines", clock=wall)
    keys = [replace(KEY, batch=number) for number in range(1, 5)]
    for key in keys:
        cache.store(key, bytes(10_000))
        wall.now_ns += 10 * DAY_S * 10**9
    assert cache.load(keys[0]) is not None  # the oldest one is used again
    removed = cache.prune(25_000)
    assert [entry.key for entry in removed] == [keys[2], keys[1]]
    assert [entry.key for entry in cache.entries()] == [keys[0], keys[3]]
    wall.now_ns += 9 * DAY_S * 10**9
    assert [entry.key for entry in cache.prune(10**9, older_than_s=15 * DAY_S)] == [keys[3]]
    assert cache.prune(0)
    assert list(cache.folder.iterdir()) == []


def test_storing_stays_within_the_limit(tmp_path: Path) -> None:
    wall = Wall()
    cache = EngineCache(tmp_path / "engines", limit_bytes=25_000, clock=wall)
    for number in range(5):
        wall.now_ns += 10**9
        cache.store(replace(KEY, batch=number), bytes(10_000))
        assert cache.load(replace(KEY, batch=number)) is not None
        assert sum(entry.nbytes for entry in cache.entries()) <= 25_000
    wall.now_ns += 10**9
    cache.store(KEY, bytes(50_000))  # larger than the limit: only this one stays
    assert [entry.key for entry in cache.entries()] == [KEY]


def test_other_files_stay_and_leftovers_are_removed(cache: EngineCache) -> None:
    (cache.folder / "notes.txt").write_text("mine")
    (cache.folder / "folder").mkdir()
    (cache.folder / ("c" * 32)).mkdir()  # an entry without its description
    assert cache.entries() == []
    cache.prune(10**9)
    assert names(cache) == ["folder", "notes.txt"]


def test_a_cached_engine_gives_no_message(cache: EngineCache) -> None:
    cache.store(KEY, b"engine")
    with cache.building(KEY, no_news) as content:
        assert content == b"engine"


def test_the_folder_of_the_cache(tmp_path: Path) -> None:
    assert engine_dir(tmp_path, {"VISION_INFER_HOME": "/elsewhere"}) == tmp_path
    assert engine_dir(None, {"VISION_INFER_HOME": str(tmp_path)}) == tmp_path / "engines"
    assert engine_dir(None, {"HOME": "/nobody"}).parts[-4:] == (".local", "share", "vision-infer", "engines")
