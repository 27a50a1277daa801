"""Add and remove streams in a separate process and print the remaining resources.

    python -m tests.support.live_churn rtsp://127.0.0.1:8554/clock

Prints a JSON list with the resources after 100, 200 and 300 streams.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from vision_infer.config.serve import ServeSettings, ServiceSettings, StreamSettings
from vision_infer.config.service.reconnect import Reconnect
from vision_infer.pipeline.status import StreamState
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.server import WebServer
from vision_infer.service.results.subscription import HubClosedError
from vision_infer.service.service import Service

AT_ONCE = 10
ROUNDS = 10
"""The number of rounds for 100 streams."""
LIMIT_S = 60.0
PATTERN = "test://?size=160x90&fps=20"
NOTHING = "rtsp://user:s3cret@127.0.0.1:9/nothing"
_ENDING = ("stream-", "connection-guard")
"""The threads that end with the streams."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    looked = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {LIMIT_S} s: {what}")
        looked.wait(0.02)


class Reader:
    """Reads all results on the HTTP server's event loop, as a client does."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.rows: Counter[str] = Counter()
        self._service = service
        self.done = asyncio.run_coroutine_threadsafe(self._read(), loop)

    async def _read(self) -> None:
        with self._service.hub.subscribe(states=True) as reader:
            while True:
                try:
                    message = await reader.next(1.0)
                except HubClosedError:
                    return
                if message is not None and message.kind == "result":
                    self.rows[json.loads(message.text)["stream"]] += 1


def come_and_go(service: Service, reader: Reader, first: int, camera: str) -> None:
    """Add ten streams of three kinds, change some of them while they run, and remove all."""
    names = [f"s{first + place}" for place in range(AT_ONCE)]
    for place, name in enumerate(names):
        url = PATTERN if place < 6 else camera if place < 9 else NOTHING
        service.create(name, StreamSettings(detect=url, open_timeout_s=5, reconnect=Reconnect(min_s=0.1, max_s=0.2)))
    for name in names[:9]:
        wait(lambda name=name: reader.rows[name] >= 2, f"{name} gives results: {service.stream(name)}")  # type: ignore[misc]
    wait(lambda: _state(service, names[9]) is StreamState.BACKING_OFF, "connection refused")
    service.replace(names[0], StreamSettings(detect=PATTERN, fps=5))
    service.replace(names[6], StreamSettings(detect=PATTERN))
    for name in names:
        service.delete(name)
    reader.rows.clear()


def _state(service: Service, name: str) -> StreamState | None:
    status = service.stream(name).status
    return None if status is None else status.state


def measure(loop: asyncio.AbstractEventLoop) -> dict[str, object]:
    gc.collect()
    tasks = asyncio.run_coroutine_threadsafe(_tasks(), loop).result(LIMIT_S)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads = sorted(thread.name for thread in threading.enumerate())
    files = sorted(os.readlink(f"/proc/self/fd/{number}") for number in _open_files())
    return {"threads": threads, "files": files, "tasks": tasks, "rss": pages * _PAGE}


def _open_files() -> list[str]:
    return [number for number in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{number}")]


async def _tasks() -> int:
    return len(asyncio.all_tasks())


def main(camera: str) -> None:
    settings = ServeSettings(model="clock", engine="onnxruntime-cpu-fp32", workers=2, service=ServiceSettings(port=0))
    service = Service(settings)
    with WebServer(settings.service, service.hub) as web, service:
        service.start()
        web.start(make_app(service, Tokens({})))
        wait(lambda: service.ready()[0], "the engine is loaded")
        loop = web._loop
        assert loop is not None
        reader = Reader(service, loop)
        measurements = []
        for hundred in range(3):
            for number in range(ROUNDS):
                come_and_go(service, reader, AT_ONCE * (hundred * ROUNDS + number), camera)
            before = threading.active_count()
            wait(lambda: not any(one.name.startswith(_ENDING) for one in threading.enumerate()), f"{before} threads end")
            measurements.append(measure(loop))
        assert service.streams() == []
    print(json.dumps(measurements))


if __name__ == "__main__":
    main(sys.argv[1])
