"""The results of workers that die while a client reads them: the client gets those of the next process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hand_clock import HandClock
from vision_infer.service.processes import merged_results
from vision_infer.service.processes.merged_results import MergedHub
from vision_infer.service.processes.worker_client import WorkerClient

LONG_S = 30.0
HEADERS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WORKER = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
connection, _ = server.accept()
connection.recv(10_000)
connection.sendall(bytes.fromhex(sys.argv[2]))
print("sent", flush=True)
connection.recv(1)
"""


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)


def event(number: int) -> bytes:
    return b'id: %d\ndata: {"frame": %d}\n\n' % (number, number)


WHOLE = HEADERS + chunk(event(1)) + chunk(event(2))
DEATHS = {
    "before the answer": b"",
    "in the status line": HEADERS[:7],
    "in the headers": HEADERS[:40],
    "after the headers": HEADERS,
    "in the size of a chunk": WHOLE + b"1",
    "in a chunk": WHOLE[:-9],
    "between two chunks": WHOLE,
    "in a message": HEADERS + chunk(event(1)) + chunk(event(2)[:11]),
    "with a number that is cut": HEADERS + chunk(b"id: \ndata: {}\n\n"),
    "with damaged text": HEADERS + chunk(b"id: 7\ndata: \xff\xfe\n\n"),
    "with an answer that is not HTTP": b"Segmentation fault\r\n\r\n",
}


class Workers:
    """Worker processes that send some bytes; all but the last are killed then."""

    def __init__(self, folder: Path, sent: list[bytes]) -> None:
        self._folder = folder
        self._sent = sent
        self.started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Workers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    @property
    def socket(self) -> Path:
        return self._folder / f"{len(self.started) - 1}.socket"

    def start(self) -> None:
        socket, sent = self._folder / f"{len(self.started)}.socket", self._sent.pop(0)
        command = [sys.executable, "-I", "-S", "-c", WORKER, str(socket), sent.hex()]
        self.started.append(subprocess.Popen(command, stdout=subprocess.PIPE))

    def client(self) -> WorkerClient | None:
        """Return the client of the process that runs, as soon as it listens."""
        return WorkerClient(self.socket, "token") if self.socket.exists() else None

    async def kill_when_sent(self) -> None:
        """Kill the process as soon as it has sent its bytes, and start the next one."""
        stdout = self.started[-1].stdout
        assert stdout is not None
        assert await asyncio.to_thread(stdout.readline) == b"sent\n"
        os.kill(self.started[-1].pid, signal.SIGKILL)
        self.started[-1].wait()
        self.start()


@pytest.mark.parametrize("when", DEATHS)
def test_a_worker_that_is_killed_costs_only_the_results_that_it_had(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_results, "RETRY_S", 0.01)

    async def read() -> list[int]:
        with Workers(tmp_path, [DEATHS[when], HEADERS + chunk(event(99))]) as workers:
            hub = MergedHub(1, {"a": workers.client}, HandClock())
            with hub.subscribe() as reader:
                killing = asyncio.create_task(workers.kill_when_sent())
                numbers: list[int] = []
                async with asyncio.timeout(LONG_S):
                    while 99 not in numbers:
                        message = await reader.next(LONG_S)
                        assert message is not None
                        numbers.append(message.number)
                await killing
                return numbers

    numbers = asyncio.run(read())
    assert numbers == [*range(1, len(numbers)), 99]
