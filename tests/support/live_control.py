"""A reference camera in a separate service process: what happens to it is noise of the machine, not a fault of a service.

    python -m tests.support.live_control rtsp://127.0.0.1:8554/apart

Prints a line for each result until standard input ends: the time of arrival, the number of the frame, and its age.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from types import TracebackType

from tests.support.live_service import Running, camera
from tests.support.media import ROOT
from tests.support.waiting import wait_until

NAME = "apart"
_PRINT_S = 0.05


@dataclass(frozen=True)
class Reference:
    """A result of the reference camera."""

    at_ns: int
    """The time of arrival, nanoseconds of the monotonic clock, which all processes share."""
    frame: int
    age_ms: float


class Control:
    """Runs the reference camera until the context ends."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._all: list[Reference] = []

    def __enter__(self) -> Control:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.live_control", self._url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_until(lambda: self._all, "the reference camera")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate()
        self._thread.join()

    def seen(self, since_ns: int, until_ns: int) -> list[Reference]:
        """Return the results in a period of time. One after it must have arrived, so that none is still on its way."""
        wait_until(lambda: self._all[-1].at_ns >= until_ns, "the results of the reference camera")
        return [one for one in self._all if since_ns <= one.at_ns < until_ns]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            at_ns, frame, age_ms = line.split()
            self._all.append(Reference(int(at_ns), int(frame), float(age_ms)))


def main(url: str) -> None:
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    with Running({NAME: camera(url)}) as running:
        since_ns = 0
        while not ended.wait(_PRINT_S):
            for seen in running.seen(NAME, since_ns):
                since_ns = seen.at_ns + 1
                print(seen.at_ns, seen.frame, seen.age_ms, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
