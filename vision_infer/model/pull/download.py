"""A file is fetched as a whole or not at all, once, however often the way there breaks.

FILE             in its place only when it is whole and its checksum is right
FILE.part        what has come so far; the next pull goes on from there
FILE.part.json   which version of the file that is of
FILE.seen.json   its SHA-256 and size when it was first fetched
FILE.lock        held by whoever fetches it; the kernel's (flock), so it ends with its process
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
from vision_infer.model.pull.http_file import Answer, FetchError, ask, shown

NS_PER_S = 1_000_000_000
_PROGRESS_BYTES = 65_536
"""an attempt that brought less does not count as one that got on"""
_MAX_ALL_ATTEMPTS = 100
_MB = 1_000_000

OnMessage = Callable[[str], None]
Report = Callable[[int, int | None], None]
"""is told the bytes that are there, and how many there will be, if that is known"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a download may take."""

    nbytes: int = 4_000_000_000
    attempts: int = 5
    """in succession that do not get on"""
    timeout_s: float = 30.0
    """for connecting, and for each wait"""
    slow_s: float = 60.0
    least_bytes_s: float = 1000.0
    """a connection that brings less, over ``slow_s``, is given up"""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that is here."""

    path: Path
    sha256: str
    first_time: bool
    """nothing was known of it before, neither stated nor seen"""


def _ignore(*_: object) -> None:
    """Is told things, and does nothing."""


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
    """Fetch a file, unless it is here. Waits for whoever fetches the same one already.

    Args:
        url: http or https.
        target: where it is to be; its folder is made.
        checksum: as its source states it; None: it states none.
        limits: what it may take.
        report: is told how far it is.
        say: is told what happens, a line each.
        wait: waits for seconds before another attempt.
        clock: monotonic time.

    Raises:
        ModelError: it cannot be fetched, and what came is kept; or it is not the right file, and nothing of it is.
    """
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(target, on_message):
            seen = read_first_seen(target)
            if target.is_file():
                on_message(f"{target.name} is here already: {target}")
            else:
                _Fetch(url, target, limits, report, on_message, clock).attempts(wait)
            return _accepted(url, target, checksum, seen)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "make room, and pull again: it goes on from where it is" if full else "check the folder"
        raise ModelError(f"{target.parent}: cannot be written: {error.strerror or error}", hint) from error


def forget(target: Path) -> None:
    """Remove a file that has turned out to be no use, and what was noted of it: the next pull fetches it anew."""
    for path in (target, note_of(target)):
        path.unlink(missing_ok=True)


def part_of(target: Path) -> Path:
    """Where what has come of a file is kept until it is whole."""
    return target.with_name(f"{target.name}.part")


def _accepted(url: str, target: Path, checksum: Checksum | None, seen: FirstSeen | None) -> Downloaded:
    """Put a file that has come in its place, if it is the right one; else remove it."""
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
    """Brings a file into its ``.part``, in as many attempts as it takes."""

    def __init__(self, url: str, target: Path, limits: Limits, report: Report, on_message: OnMessage, clock: Clock) -> None:
        self._url = url
        self._target = target
        self._part = part_of(target)
        self._limits = limits
        self._report = report
        self._say = on_message
        self._now = clock.monotonic_ns

    def attempts(self, wait: Callable[[float], None]) -> None:
        """Go on until all is here.

        Raises:
            ModelError: it is given up.
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
                self._say(f"{self._target.name}: {error}: trying again in {pause_s:g} s")
                wait(pause_s)
        raise self._given_up(FetchError("the connection broke time and again"))

    def _attempt(self) -> None:
        start, validator, total = self._kept()
        if start and start == total:
            return
        answer = ask(self._url, start, validator, self._limits.timeout_s)
        try:
            if start and answer.start == 0:
                self._say(f"{self._target.name}: begins anew: {_why_anew(answer, validator)}")
            elif answer.start != start or (start and answer.total != total):
                self._part.unlink(missing_ok=True)  # nothing can be told of what is here
                raise FetchError("the server sent another part than was asked for", again=True)
            self._check_size(answer)
            if answer.start == 0:
                self._remember(answer)
            with self._part.open("r+b" if answer.start else "wb", buffering=0) as file:
                file.seek(answer.start)
                self._copy(answer, file.write)
        finally:
            answer.body.close()

    def _copy(self, answer: Answer, write: Callable[[bytes], int | None]) -> None:
        done, since_ns, since_done = answer.start, self._now(), answer.start
        self._report(done, answer.total)
        while True:
            data = memoryview(answer.read())
            if not data:
                break
            done += len(data)
            if done > (answer.total or self._limits.nbytes):
                raise FetchError(f"more came than {'was announced' if answer.total else self._most()}")
            while data:
                data = data[write(data) or 0 :]  # type: ignore[arg-type]
            self._report(done, answer.total)
            seconds = (self._now() - since_ns) / NS_PER_S
            if seconds >= self._limits.slow_s:
                if done - since_done < self._limits.least_bytes_s * seconds:
                    raise FetchError(f"too slow: {(done - since_done) / seconds:.0f} bytes a second", again=True)
                since_ns, since_done = self._now(), done
        if not done:
            raise FetchError("nothing came", again=True)
        if answer.total is not None and done < answer.total:
            raise FetchError(f"broke off at {done / _MB:.1f} of {answer.total / _MB:.1f} MB", again=True)

    def _check_size(self, answer: Answer) -> None:
        if answer.total is None:
            return
        if answer.total > self._limits.nbytes:
            raise FetchError(f"is larger than {self._most()}: {answer.total / _MB:.0f} MB")
        free, needed = shutil.disk_usage(self._target.parent).free, answer.total - answer.start
        if free < needed:
            raise FetchError(f"the disk is too full: {needed / _MB:.0f} MB are needed, and {free / _MB:.0f} MB are free")

    def _most(self) -> str:
        return f"{self._limits.nbytes / _MB:.0f} MB, the most that is taken"

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _kept(self) -> tuple[int, str, int | None]:
        """How much is here, of which version, and of how much; nothing where that is not known."""
        try:
            version = json.loads(_version_of(self._part).read_text(encoding="utf-8"))
            if version["url"] == self._url and version["validator"]:
                return self._size(), str(version["validator"]), version["total"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, "", None

    def _remember(self, answer: Answer) -> None:
        """Note of which version the part will be, before there is any; what there was of another is gone."""
        self._part.unlink(missing_ok=True)
        version = {"url": self._url, "validator": answer.validator, "total": answer.total}
        _version_of(self._part).write_text(json.dumps(version), encoding="utf-8")

    def _given_up(self, error: FetchError) -> ModelError:
        by_hand = "fetch it where it can be reached, and give it with --file PATH"
        if error.offline:
            return ModelError(f"{shown(self._url)}: {error}: this machine seems to be offline", by_hand)
        kept = f"; {self._size() / _MB:.1f} MB are kept, and the same command goes on from there" if self._kept()[0] else ""
        return ModelError(f"{shown(self._url)}: {error}{kept}", by_hand)


def _why_anew(answer: Answer, validator: str) -> str:
    return "the file has changed at its source" if answer.validator != validator else "the server does not resume"


def _version_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


@contextmanager
def _locked(target: Path, on_message: OnMessage) -> Iterator[None]:
    """Hold the lock of a file; its own file stays, for whoever waits for it has it open."""
    with target.with_name(f"{target.name}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            on_message(f"{target.name} is being fetched by another process: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
