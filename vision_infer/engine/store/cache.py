"""The engine cache: what was compiled on this machine, and the passports, each in a folder that is named by what it belongs to.

    DIGEST/entry.json      the key, and the checksum of the engine
    DIGEST/engine.bin      what the runtime compiled, where it has such a thing
    DIGEST/passport.json   what was measured
    DIGEST.lock            held by whoever builds

An entry is made under another name and renamed: it is there as a whole or not at all, and what a killed builder left is removed
by the next. An engine whose checksum is wrong is never handed out. Locks are the kernel's (flock): they end with their process.
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
from vision_infer.engine.store.trust import make_trusted_folder, refuse_untrusted

HOME_VARIABLE = "VISION_INFER_HOME"
LIMIT_BYTES = 4_000_000_000
"""beyond which the engines that were not used for longest go, when a new one is stored"""
NS_PER_S = 1_000_000_000

OnMessage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What is known of an entry without loading it."""

    folder: Path
    key: EngineKey
    nbytes: int
    used_ns: int
    """wall time at which it was last loaded or made"""


def engine_dir(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """The folder of the cache, which need not exist.

    Args:
        explicit: as given on the command line or in a configuration; goes before all else.
        environ: the environment; ``VISION_INFER_HOME``/engines where that is set.
    """
    if explicit is not None:
        return explicit
    home = environ.get(HOME_VARIABLE, "")
    base = Path(home) if home else Path("~/.local/share/vision-infer")
    return base.expanduser() / "engines"


class EngineCache:
    """A folder of engines and passports.

    Args:
        folder: made where it is not there.
        limit_bytes: what all entries together may take.
        clock: tells when an entry was used.

    Raises:
        EngineError: the folder cannot be made, or is not trusted: others could have put an engine there.
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES, clock: Clock = SYSTEM_CLOCK) -> None:
        make_trusted_folder(folder.resolve())
        self.folder = folder.resolve()
        self._limit = limit_bytes
        self._clock = clock

    def load(self, key: EngineKey) -> bytes | None:
        """The compiled engine; None where there is none, or it is damaged.

        Raises:
            EngineError: others may have written it.
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
        with suppress(OSError):  # a disk that may only be read: nothing is pruned there
            os.utime(folder / "entry.json", ns=(self._clock.wall_ns(),) * 2)
        return content

    @contextmanager
    def building(self, key: EngineKey, on_message: OnMessage) -> Iterator[bytes | None]:
        """Hold the entry's lock; waits for whoever builds the same one already, and says so.

        Yields:
            What another has built meanwhile; None: it is to be built, and ``say`` was told why.
        """
        with self._locked(
            key.digest(), lambda: on_message(f"another process is building {key.engine} of {key.model}: waiting for it")
        ):
            content = self.load(key)
            if content is None:
                on_message(f"building {key.engine} of {key.model}: {self.why_missing(key)}")
            yield content

    def why_missing(self, key: EngineKey) -> str:
        """Why an engine has to be built: there is none, it is damaged, or what differs from the nearest one that is there."""
        if (self.folder / key.digest() / "engine.bin").exists():
            return "the one that is kept is damaged"
        alike = [entry.key for entry in self.entries() if (entry.key.model, entry.key.engine) == (key.model, key.engine)]
        nearest = min((key.differences(other) for other in alike if other != key), key=len, default=None)
        return "there is none yet" if nearest is None else "; ".join(nearest)

    def store(self, key: EngineKey, engine: bytes | None, passport: str | None = None) -> Path:
        """Keep an engine and its passport; what is None stays as it was. Call it while :meth:`building`, for an engine.

        Raises:
            EngineError: they cannot be written, for instance because the disk is full; what was there before is still there.
        """
        folder = self.folder / key.digest()
        temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(mode=0o700)
            if folder.is_dir():
                _copy_kept(folder, temporary, engine, passport)
            if passport is not None:
                _write(temporary / "passport.json", passport.encode())
            if engine is not None:
                _write(temporary / "engine.bin", engine)
            known = _read_entry(folder).get("sha256") if engine is None else hashlib.sha256(engine).hexdigest()
            _write(temporary / "entry.json", json.dumps({"key": asdict(key), "sha256": known}, indent=1).encode())
            os.utime(temporary / "entry.json", ns=(self._clock.wall_ns(),) * 2)
            _replace_folder(temporary, folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise EngineError(
                f"{self.folder}: {key.engine} cannot be kept: {error.strerror}", "make room, or --engine-dir"
            ) from error
        self.prune(self._limit, keep=folder)
        return folder

    def keep_passport(self, key: EngineKey, passport: str) -> Path:
        """Keep a passport, beside the engine where there is one; the errors are :meth:`store`'s."""
        with self._locked(key.digest(), lambda: None):
            return self.store(key, None, passport)

    def passport(self, key: EngineKey) -> str | None:
        """The passport that was stored for the key, as text; None where there is none."""
        folder = self.folder / key.digest()
        try:
            return (folder / "passport.json").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def entries(self) -> list[CacheEntry]:
        """All entries that are whole, last used first."""
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

    def prune(self, most_bytes: int, older_than_s: float | None = None, keep: Path | None = None) -> list[CacheEntry]:
        """Remove what was not used for longest, until the rest fits; and what killed builders left.

        Args:
            most_bytes: what may stay.
            older_than_s: everything that was not used for so long goes too.
            keep: this entry stays.

        Returns:
            What was removed. Entries that somebody is building are left alone.
        """
        removed = []
        now = self._clock.wall_ns()
        entries = self.entries()
        kept_bytes = sum(entry.nbytes for entry in entries if entry.folder == keep)
        for entry in entries:
            if entry.folder == keep:
                continue
            old = older_than_s is not None and now - entry.used_ns > older_than_s * NS_PER_S
            if not (old or kept_bytes + entry.nbytes > most_bytes):
                kept_bytes += entry.nbytes
            elif self._remove(entry.folder.name):
                removed.append(entry)
        self._sweep()
        return removed

    def remove(self, key: EngineKey) -> bool:
        """Remove an entry; False where somebody is building it."""
        return self._remove(key.digest())

    def _sweep(self) -> None:
        """Remove what killed builders left, locks that nobody holds, and folders that are no entries."""
        whole = {entry.folder.name for entry in self.entries()}
        for path in list(self.folder.iterdir()):
            digest = path.name.partition(".")[0]
            if path.name not in whole and len(digest) == 32:
                self._remove(digest, whole=digest not in whole)

    def _remove(self, digest: str, whole: bool = True) -> bool:
        try:
            with self._locked(digest, None) as lock:
                for path in self.folder.glob(f"{digest}.tmp-*"):
                    shutil.rmtree(path, ignore_errors=True)
                if whole:
                    shutil.rmtree(self.folder / digest, ignore_errors=True)
                lock.unlink(missing_ok=True)
        except (BlockingIOError, OSError):
            return False
        return True

    @contextmanager
    def _locked(self, digest: str, on_wait: Callable[[], None] | None) -> Iterator[Path]:
        """Hold a lock; with ``on_wait`` None BlockingIOError where somebody has it."""
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
                    continue  # whoever held it has removed it: that lock keeps nobody out any more
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
    # For its owner alone, whatever the umask: else it would not be trusted.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _copy_kept(folder: Path, temporary: Path, engine: bytes | None, passport: str | None) -> None:
    for name, new in (("engine.bin", engine), ("passport.json", passport)):
        if new is None and (folder / name).is_file():
            shutil.copyfile(folder / name, temporary / name)
            (temporary / name).chmod(0o600)


def _replace_folder(temporary: Path, folder: Path) -> None:
    """Put a finished folder in the place of another, which for a moment is not there at all."""
    if folder.exists():
        old = folder.with_name(f"{folder.name}.tmp-old-{os.getpid()}")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(folder)
