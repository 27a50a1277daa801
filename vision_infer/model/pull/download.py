"""Resumable downloads: a file appears in its place only when it is complete and its checksum is correct.

FILE             the complete file
FILE.part        the bytes received so far, from which the next download continues
FILE.part.json   the version of the file to which they belong
FILE.seen.json   SHA-256 and size at the first download
FILE.lock        the lock (flock) of the process that downloads the file; it ends with the process
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import ModelError
from vision_infer.model.pull.checksum import Checksum, FirstSeen, check_file, note_first_seen, note_of, read_first_seen
from vision_infer.model.pull.http_file import FetchError, HttpBody, ask, shown

NS_PER_S = 1_000_000_000
_PROGRESS_BYTES = 65_536
"""The minimum number of bytes for an attempt to count as progress."""
_MAX_ALL_ATTEMPTS = 100
_MB = 1_000_000

OnMessage = Callable[[str], None]
Report = Callable[[int, int | None], None]
"""Receives the number of bytes so far, and the total if known."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a download."""

    nbytes: int = 4_000_000_000
    """The maximum size of a file."""
    attempts: int = 5
    """The maximum number of successive attempts without progress."""
    timeout_s: float = 30.0
    """The time-out for connecting and for each read."""
    slow_s: float = 60.0
    """The period over which the rate is measured."""
    min_bytes_s: float = 1000.0
    """The minimum rate of a connection."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A downloaded file."""

    path: Path
    sha256: str
    first_time: bool
    """Whether there is neither a published checksum nor a record of an earlier download."""


def _ignore(*_: object) -> None:
    """Do nothing."""


def download(
    url: str,
    target: Path,
    checksum: Checksum | None = None,
    *,
    limits: Limits = Limits(),
    report: Report = _ignore,
    on_message: OnMessage = _ignore,
    wait: Callable[[float], None] = time.sleep,
    clock: Clock = SYSTEM_CLOCK,
) -> Downloaded:
    """Download a file unless it exists; wait if another process downloads it.

    Args:
        url: The URL, http or https.
        target: The place of the file; its folder is created.
        checksum: The published checksum; None: there is none.
        limits: The limits of the download.
        report: Receives the progress.
        on_message: Receives messages, one line at a time.
        wait: Waits for a number of seconds before another attempt.
        clock: The monotonic clock.

    Raises:
        ModelError: The download failed, and its part is kept; or it is not the right file, and is removed.
    """
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(target, on_message):
            seen = read_first_seen(target)
            if target.is_file():
                on_message(f"{target.name} already exists: {target}")
            else:
                _Fetch(url, target, limits, report, on_message, clock).attempts(wait)
            return _accepted(url, target, checksum, seen)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Free disk space and run the command again; it continues the download." if full else "Check the folder."
        raise ModelError(f"{target.parent}: cannot be written: {error.strerror or error}", hint) from error


def forget(target: Path) -> None:
    """Remove an unusable file and its record, so that the next command downloads it again."""
    for path in (target, note_of(target)):
        path.unlink(missing_ok=True)


def part_of(target: Path) -> Path:
    """Return the path of the part of a file."""
    return target.with_name(f"{target.name}.part")


def _accepted(url: str, target: Path, checksum: Checksum | None, seen: FirstSeen | None) -> Downloaded:
    """Move a downloaded file to its place if it is the right one; remove it otherwise."""
    part = part_of(target)
    came = target if target.is_file() else part
    try:
        sha256 = check_file(came, checksum, seen, target.name)
    except ModelError:
        came.unlink(missing_ok=True)
        _version_of(part).unlink(missing_ok=True)
        raise
    if seen is None:
        note_first_seen(target, FirstSeen(shown(url), sha256, came.stat().st_size))
    if came is part:
        os.replace(part, target)
        _version_of(part).unlink(missing_ok=True)
    return Downloaded(target, sha256, checksum is None and seen is None)


class _Fetch:
    """Downloads a file into its ``.part``, in several attempts if necessary."""

    def __init__(self, url: str, target: Path, limits: Limits, report: Report, on_message: OnMessage, clock: Clock) -> None:
        self._url = url
        self._target = target
        self._part = part_of(target)
        self._limits = limits
        self._report = report
        self._on_message = on_message
        self._now = clock.monotonic_ns

    def attempts(self, wait: Callable[[float], None]) -> None:
        """Repeat until the file is complete.

        Raises:
            ModelError: The download failed.
        """
        in_vain = 0
        for _ in range(_MAX_ALL_ATTEMPTS):
            before = self._size()
            try:
                self._attempt()
                return
            except FetchError as error:
                in_vain = 0 if self._size() >= before + _PROGRESS_BYTES else in_vain + 1
                if not error.again or in_vain >= self._limits.attempts:
                    raise self._given_up(error) from None
                pause_s = error.wait_s or float(2 ** min(in_vain, 4))
                self._on_message(f"{self._target.name}: {error}; retrying in {pause_s:g} s")
                wait(pause_s)
        raise self._given_up(FetchError("the connection broke too often"))

    def _attempt(self) -> None:
        start, validator, total = self._kept()
        if start and start == total:
            return
        response = ask(self._url, start, validator, self._limits.timeout_s)
        try:
            if start and response.start == 0:
                self._on_message(f"{self._target.name}: restarting: {_restart_reason(response, validator)}")
            elif response.start != start or (start and response.total != total):
                self._part.unlink(missing_ok=True)  # the existing part is of an unknown version
                raise FetchError("the server sent another part than requested", again=True)
            self._check_size(response)
            if response.start == 0:
                self._remember(response)
            with self._part.open("r+b" if response.start else "wb", buffering=0) as file:
                file.seek(response.start)
                self._copy(response, file.write)
        finally:
            response.body.close()

    def _copy(self, response: HttpBody, write: Callable[[bytes], int | None]) -> None:
        done, since_ns, since_done = response.start, self._now(), response.start
        self._report(done, response.total)
        while True:
            data = memoryview(response.read())
            if not data:
                break
            done += len(data)
            if done > (response.total or self._limits.nbytes):
                raise FetchError(f"the file is larger than {'announced' if response.total else self._limit()}")
            while data:
                data = data[write(data) or 0 :]  # type: ignore[arg-type]
            self._report(done, response.total)
            seconds = (self._now() - since_ns) / NS_PER_S
            if seconds >= self._limits.slow_s:
                if done - since_done < self._limits.min_bytes_s * seconds:
                    raise FetchError(f"too slow: {(done - since_done) / seconds:.0f} bytes per second", again=True)
                since_ns, since_done = self._now(), done
        if not done:
            raise FetchError("no data arrived", again=True)
        if response.total is not None and done < response.total:
            raise FetchError(f"the connection broke at {done / _MB:.1f} of {response.total / _MB:.1f} MB", again=True)

    def _check_size(self, response: HttpBody) -> None:
        if response.total is None:
            return
        if response.total > self._limits.nbytes:
            raise FetchError(f"the file has {response.total / _MB:.0f} MB, more than {self._limit()}")
        free, needed = shutil.disk_usage(self._target.parent).free, response.total - response.start
        if free < needed:
            raise FetchError(f"not enough disk space: {needed / _MB:.0f} MB are needed, {free / _MB:.0f} MB are free")

    def _limit(self) -> str:
        return f"the limit of {self._limits.nbytes / _MB:.0f} MB"

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _kept(self) -> tuple[int, str, int | None]:
        """Return the size, the validator and the total size of the existing part; zero if its version is unknown."""
        try:
            version = json.loads(_version_of(self._part).read_text(encoding="utf-8"))
            if version["url"] == self._url and version["validator"]:
                return self._size(), str(version["validator"]), version["total"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, "", None

    def _remember(self, response: HttpBody) -> None:
        """Record the version of the part before it is written, and remove a part of another version."""
        self._part.unlink(missing_ok=True)
        version = {"url": self._url, "validator": response.validator, "total": response.total}
        _version_of(self._part).write_text(json.dumps(version), encoding="utf-8")

    def _given_up(self, error: FetchError) -> ModelError:
        by_hand = "Download it on another machine, and add --file PATH."
        if error.offline:
            return ModelError(f"{shown(self._url)}: {error}; this machine seems to be offline", by_hand)
        kept = f"; {self._size() / _MB:.1f} MB are kept, and the same command continues from there" if self._kept()[0] else ""
        return ModelError(f"{shown(self._url)}: {error}{kept}", by_hand)


def _restart_reason(response: HttpBody, validator: str) -> str:
    return "the file has changed on the server" if response.validator != validator else "the server cannot resume"


def _version_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


@contextmanager
def _locked(target: Path, on_message: OnMessage) -> Iterator[None]:
    """Hold the lock of a file; the lock file stays, because waiting processes have it open."""
    with target.with_name(f"{target.name}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            on_message(f"waiting for another process that downloads {target.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
