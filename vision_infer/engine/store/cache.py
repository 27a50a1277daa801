"""The engine cache: the engines that were compiled on this machine, and their passports, in one folder for each key.

    DIGEST/entry.json      the key, and the checksum of the engine
    DIGEST/engine.bin      the compiled engine, if the runtime has one
    DIGEST/passport.json   the measurements
    DIGEST/kernels-….bin   kernels that a plan compiled for a GPU of this machine
    DIGEST.lock            the lock of the process that builds the engine

An entry is written under another name and renamed: it exists completely or not at all, and the next builder removes the leftovers
of a killed one. An engine whose checksum is wrong is never returned. The locks are the kernel's (flock) and end with the process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError
from vision_infer.engine.store.engine_key import EngineKey
from vision_infer.engine.store.passport import Passport, read_passport
from vision_infer.engine.store.trust import make_trusted_folder, refuse_untrusted

HOME_VARIABLE = "VISION_INFER_HOME"
LIMIT_BYTES = 4_000_000_000
"""The maximum size of the cache, bytes; storing an engine removes the least recently used ones beyond it."""
NS_PER_S = 1_000_000_000
KERNELS = "kernels-*.bin"
"""The names of the files of compiled kernels, next to the engine."""

OnMessage = Callable[[str], None]
"""Receives lines of text for people."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """An entry of the cache, without its content."""

    folder: Path
    key: EngineKey
    nbytes: int
    """The size of its files, bytes."""
    used_ns: int
    """The wall time at which it was last loaded or stored, ns."""


def engine_dir(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the folder of the cache, which need not exist.

    Args:
        explicit: The folder from the command line or a configuration; it has precedence.
        environ: The environment; ``VISION_INFER_HOME``/engines if that is set.
    """
    if explicit is not None:
        return explicit
    home = environ.get(HOME_VARIABLE, "")
    base = Path(home) if home else Path("~/.local/share/vision-infer")
    return base.expanduser() / "engines"


class EngineCache:
    """A folder of engines and passports, created if it does not exist, of at most ``limit_bytes``.

    Raises:
        EngineError: The folder cannot be created, or is not trusted: other users could have written an engine there.
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES, clock: Clock = SYSTEM_CLOCK) -> None:
        make_trusted_folder(folder.resolve())
        self.folder = folder.resolve()
        self._limit = limit_bytes
        self._clock = clock

    def load(self, key: EngineKey) -> bytes | None:
        """Return the compiled engine; None if there is none, or it is damaged.

        Raises:
            EngineError: Other users may have written it.
        """
        folder = self.folder / key.digest()
        if not folder.is_dir():
            return None
        for path in (folder, *sorted(folder.iterdir())):
            refuse_untrusted(path)
        wanted = _read_entry(folder).get("sha256")
        try:
            content = (folder / "engine.bin").read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest() != wanted:
            return None
        with suppress(OSError):  # a read-only disk: nothing is pruned there
            os.utime(folder / "entry.json", ns=(self._clock.wall_ns(),) * 2)
        return content

    @contextmanager
    def building(self, key: EngineKey, on_message: OnMessage) -> Iterator[bytes | None]:
        """Hold the entry's lock while the caller builds the engine; wait if another process is building it.

        Yields:
            The engine that another process has built meanwhile; None: the caller has to build it; ``on_message`` receives why.
        """
        waiting = f"another process is building {key.engine} for {key.model}: waiting for it"
        with self._locked(key.digest(), lambda: on_message(waiting)):
            content = self.load(key)
            if content is None:
                on_message(f"building {key.engine} for {key.model} ({self.why_missing(key)})")
            yield content

    def why_missing(self, key: EngineKey) -> str:
        """Return why an engine has to be built: it is not cached, it is damaged, or the differences to the most similar one."""
        if (self.folder / key.digest() / "engine.bin").exists():
            return "the cached engine is damaged"
        alike = [entry.key for entry in self.entries() if (entry.key.model, entry.key.engine) == (key.model, key.engine)]
        nearest = min((key.differences(other) for other in alike if other != key), key=len, default=None)
        return "not cached yet" if nearest is None else "; ".join(nearest)

    def store(self, key: EngineKey, engine: bytes | None, passport: str | None = None) -> Path:
        """Store an engine and its passport; None keeps the stored one. For an engine, the caller has to be in :meth:`building`.

        Raises:
            EngineError: They cannot be written, for instance because the disk is full; the earlier entry is unchanged.
        """
        folder = self.folder / key.digest()
        temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
        # Build the whole entry in a temporary folder, then rename it: a reader sees the old entry or the new one.
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(mode=0o700)
            if folder.is_dir():
                _copy_stored(folder, temporary, engine, passport)
            if passport is not None:
                _write(temporary / "passport.json", passport.encode())
            if engine is not None:
                _write(temporary / "engine.bin", engine)
            checksum = _read_entry(folder).get("sha256") if engine is None else hashlib.sha256(engine).hexdigest()
            _write(temporary / "entry.json", json.dumps({"key": asdict(key), "sha256": checksum}, indent=1).encode())
            os.utime(temporary / "entry.json", ns=(self._clock.wall_ns(),) * 2)
            _replace_folder(temporary, folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            message = f"{self.folder}: {key.engine} cannot be stored: {error.strerror}"
            raise EngineError(message, "Free disk space, or name another folder with --engine-dir.") from error
        self.prune(self._limit, keep=folder)
        return folder

    def store_passport(self, key: EngineKey, passport: str) -> Path:
        """Store a passport next to the engine, if there is one; the errors are those of :meth:`store`."""
        with self._locked(key.digest(), lambda: None):
            return self.store(key, None, passport)

    def passport(self, key: EngineKey) -> Passport | None:
        """Return the passport of the key; None if there is none that can be read."""
        try:
            return read_passport(self.folder / key.digest() / "passport.json")
        except EngineError:
            return None

    def entries(self) -> list[CacheEntry]:
        """Return all complete entries, the most recently used first."""
        found = []
        for folder in self.folder.iterdir():
            content = _read_entry(folder)
            try:
                key = EngineKey(**content["key"])
                used = (folder / "entry.json").stat().st_mtime_ns
                found.append(CacheEntry(folder, key, sum(path.stat().st_size for path in folder.iterdir()), used))
            except (OSError, TypeError, KeyError):
                continue
        return sorted(found, key=lambda entry: -entry.used_ns)

    def prune(self, max_bytes: int, older_than_s: float | None = None, keep: Path | None = None) -> list[CacheEntry]:
        """Remove the least recently used entries until the others fit into ``max_bytes``; return the removed ones.

        The leftovers of killed builders are removed as well. Entries that a process is building stay.

        Args:
            older_than_s: The maximum time since the last use, seconds; older entries are removed as well.
            keep: The folder of an entry that stays.
        """
        removed = []
        now = self._clock.wall_ns()
        entries = self.entries()
        kept_bytes = sum(entry.nbytes for entry in entries if entry.folder == keep)
        for entry in entries:
            if entry.folder == keep:
                continue
            old = older_than_s is not None and now - entry.used_ns > older_than_s * NS_PER_S
            if not (old or kept_bytes + entry.nbytes > max_bytes):
                kept_bytes += entry.nbytes
            elif self._remove(entry.folder.name):
                removed.append(entry)
        self._sweep()
        return removed

    def remove(self, key: EngineKey) -> bool:
        """Remove an entry; return False if a process is building it."""
        return self._remove(key.digest())

    def _sweep(self) -> None:
        """Remove the leftovers of killed builders, locks that no process holds, and folders that are not entries."""
        complete = {entry.folder.name for entry in self.entries()}
        for path in list(self.folder.iterdir()):
            digest = path.name.partition(".")[0]
            if path.name not in complete and len(digest) == 32:
                self._remove(digest, entry=digest not in complete)

    def _remove(self, digest: str, entry: bool = True) -> bool:
        try:
            with self._locked(digest, None) as lock:
                for path in self.folder.glob(f"{digest}.tmp-*"):
                    shutil.rmtree(path, ignore_errors=True)
                if entry:
                    shutil.rmtree(self.folder / digest, ignore_errors=True)
                lock.unlink(missing_ok=True)
        except (BlockingIOError, OSError):
            return False
        return True

    @contextmanager
    def _locked(self, digest: str, on_wait: Callable[[], None] | None) -> Iterator[Path]:
        """Hold the lock of an entry: it excludes other processes that build, store or remove the same entry.

        Args:
            on_wait: Called once before waiting for another process; None: raise BlockingIOError instead of waiting.
        """
        path = self.folder / f"{digest}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if on_wait is None:
                        raise
                    on_wait()
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not _is_same_file(descriptor, path):
                    continue  # the previous holder removed the file: a lock on it no longer excludes other processes
                yield path
                return
            finally:
                os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _read_entry(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("key"), dict) else {}


def _write(path: Path, content: bytes) -> None:
    # Readable by its owner only, whatever the umask: otherwise it would not be trusted.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _copy_stored(folder: Path, temporary: Path, engine: bytes | None, passport: str | None) -> None:
    for name, new in (("engine.bin", engine), ("passport.json", passport)):
        if new is None and (folder / name).is_file():
            _copy(folder / name, temporary)
    for kernels in folder.glob(KERNELS) if engine is None else ():
        _copy(kernels, temporary)


def _copy(path: Path, folder: Path) -> None:
    shutil.copyfile(path, folder / path.name)
    (folder / path.name).chmod(0o600)


def _replace_folder(temporary: Path, folder: Path) -> None:
    """Replace a folder by a finished one; for a moment neither exists."""
    if folder.exists():
        old = folder.with_name(f"{folder.name}.tmp-old-{os.getpid()}")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(folder)
