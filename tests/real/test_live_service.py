"""``vision-infer serve`` as a process: kills, stops, edits of the configuration file, and stuck clients."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.support.cameras import ClockMount, RtspServer
from tests.support.fault_proxy import FaultProxy
from tests.support.serve_process import LIMIT_S, ServeProcess, whole_rows

PATTERN = "test://?size=160x90&fps=20"
DRAIN_S = 5.0
"""The time limit for frames in the pipeline when the service stops, in seconds."""
NOISE_S = 10.0
"""The additional time on a busy machine, in seconds."""


def rows_of(rows: list[dict[str, Any]], stream: str) -> list[int]:
    return [row["frame"] for row in rows if row["stream"] == stream]


class Listener:
    """Reads results over a WebSocket on a thread, until the service or the context ends."""

    def __init__(self, process: ServeProcess) -> None:
        self.rows: list[dict[str, Any]] = []
        self._process = process
        self._connected, self._leaving = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._read, name="listener")

    def _read(self) -> None:
        with connect(f"ws://127.0.0.1:{self._process.port}/api/v1/results", max_queue=None) as messages:
            self._connected.set()
            for message in messages:
                assert isinstance(message, str)
                self.rows.append(json.loads(message))
                if self._leaving.is_set():
                    return

    def __enter__(self) -> Listener:
        self._thread.start()
        assert self._connected.wait(LIMIT_S)
        return self

    def __exit__(self, *what: object) -> None:
        self._leaving.set()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


# Restart


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServeProcess]:
    configuration = f"model: clock\nresults: {{jsonl: {tmp_path}/rows.jsonl}}\nstreams: {{cam: {{detect: '{PATTERN}'}}}}\n"
    with ServeProcess(tmp_path, configuration) as running:
        assert running.ask("PUT", "/api/v1/streams/made", {"detect": PATTERN})[0] == 201
        rows = tmp_path / "rows.jsonl"
        running.wait(lambda: {row["stream"] for row in whole_rows(rows)} == {"cam", "made"}, "rows of both streams")
        yield running


def test_everything_is_restored_after_a_kill(process: ServeProcess, tmp_path: Path) -> None:
    """Streams created over the API are restored, and only the last row may be incomplete, which the restart repairs."""
    rows = tmp_path / "rows.jsonl"
    process.wait(lambda: len(whole_rows(rows)) > 40, "rows")
    process.kill()
    data = rows.read_bytes()
    *whole, last = data.split(b"\n")
    assert len(whole) > 40
    assert all(json.loads(line)["model"] == "clock" for line in whole)
    torn = b"\n".join(whole) + b"\n" + (last or whole[-1])[:25]  # killed in the middle of a row
    rows.write_bytes(torn)
    process.start()
    process.wait(
        lambda: {row["stream"] for row in whole_rows(rows)[len(whole) :]} == {"cam", "made"}, "rows of both streams again"
    )
    streams = process.streams()
    assert {name: stream["origin"] for name, stream in streams.items()} == {"cam": "file", "made": "api"}
    assert streams["made"]["settings"]["detect"] == PATTERN
    assert rows.read_bytes().startswith(b"\n".join(whole) + b"\n{"), "complete rows are kept, the incomplete one is removed"


def test_the_end_is_orderly(process: ServeProcess, tmp_path: Path) -> None:
    """The exit status is 0 after at most five seconds, and all rows that a client got are in the file."""
    with Listener(process) as listener:
        process.wait(lambda: len(listener.rows) > 60, "results")
        status, took_s = process.stop()
    assert status == 0
    assert took_s < DRAIN_S + NOISE_S
    data = (tmp_path / "rows.jsonl").read_bytes()
    assert data.endswith(b"\n")
    rows = [json.loads(line) for line in data.splitlines()]
    kept = {(row["stream"], row["frame"]) for row in rows}
    assert {(row["stream"], row["frame"]) for row in listener.rows} <= kept
    for stream in ("cam", "made"):
        assert rows_of(rows, stream)[-1] == max(rows_of(rows, stream))
        assert rows_of(rows, stream)[-1] - rows_of(listener.rows, stream)[-1] <= 8, "clients got nearly all of the rows"
    assert "Traceback" not in process.log


# Configuration file


def edited(process: ServeProcess, text: str) -> None:
    """Write the configuration file as editors do: under another name, then renamed."""
    new = process.file.with_name(".cameras.yaml.swp")
    new.write_text(text, encoding="utf-8")
    new.replace(process.file)


@pytest.mark.slow
def test_a_changed_file_does_not_affect_other_streams(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    with ExitStack() as stack:
        mounts = [ClockMount(f"/{name}", 320, 180, 10, key_interval=5) for name in "abc"]
        server = stack.enter_context(RtspServer(*mounts))
        network = {name: stack.enter_context(FaultProxy(server.port)) for name in "abc"}
        urls = {name: one.url(f"/{name}") for name, one in network.items()}

        def text(**streams: str) -> str:
            lines = [f"  {name}: {{detect: '{urls[name]}'{more}}}\n" for name, more in streams.items()]
            return f"model: clock\nresults: {{jsonl: {rows}}}\nstreams:\n{''.join(lines)}"

        process = stack.enter_context(ServeProcess(tmp_path, text(a="", b="")))

        def live(*names: str) -> bool:
            streams = process.streams()
            return streams.keys() == set(names) and all(one["status"]["state"] == "live" for one in streams.values())

        process.wait(lambda: live("a", "b"), "both streams to be live")
        process.wait(lambda: len(rows_of(whole_rows(rows), "a")) > 10, "rows of a")
        accepted = {name: one.accepted for name, one in network.items()}
        edited(process, text(a="", b="", c=", fps: 5"))
        process.wait(lambda: live("a", "b", "c"), "c to be added")
        edited(process, text(a="", b=", weight: 2", c=", fps: 5"))
        process.wait(lambda: process.streams()["b"]["settings"]["weight"] == 2, "b to be changed")
        assert network["b"].accepted == accepted["b"], "a new weight does not reopen the connection"
        edited(process, "streams: {a: {detect: 17}, b: [")
        process.wait(lambda: "continues with the old settings" in process.log, "the error is logged")
        assert live("a", "b", "c")
        edited(process, text(a="", b=", weight: 2, transport: tcp, open_timeout_s: 7"))
        process.wait(lambda: live("a", "b") and network["b"].accepted > accepted["b"], "c to be removed and b to be reopened")
        process.wait(lambda: network["c"].open_connections == 0, "the connection of c to close")
        end = len(rows_of(whole_rows(rows), "a"))
        process.wait(lambda: len(rows_of(whole_rows(rows), "a")) > end + 5, "more rows of a")
        assert process.streams()["a"]["status"]["reconnects"] == 0
        assert network["a"].accepted == accepted["a"]
        dropped = process.streams()["a"]["status"]["dropped"]
        assert process.stop()[0] == 0
    frames = rows_of(whole_rows(rows), "a")
    lost = sum(later - earlier - 1 for earlier, later in itertools.pairwise(frames))
    assert lost <= dropped.get("superseded", 0), "every frame has a row, unless the machine was too busy"
    assert lost <= 0.1 * len(frames)


# Clients


@contextmanager
def deaf(process: ServeProcess) -> Iterator[socket.socket]:
    """Open a WebSocket and never read from it."""
    key = base64.b64encode(os.urandom(16)).decode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", process.port))
        client.sendall(
            f"GET /api/v1/results HTTP/1.1\r\nHost: 127.0.0.1:{process.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert client.recv(12) == b"HTTP/1.1 101"
        yield client


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timing
@pytest.mark.slow  # tests/service/test_http_results.py tests the same in one process
def test_stuck_clients_do_not_affect_the_service(tmp_path: Path) -> None:
    streams = "".join(f"  s{number}: {{detect: 'test://?size=160x90&fps=30'}}\n" for number in range(4))
    with ServeProcess(tmp_path, f"model: clock\nengine: 'null'\nstreams:\n{streams}") as process, ExitStack() as stack:
        listener = stack.enter_context(Listener(process))

        def counted(seconds: float) -> int:
            """Count rows over some time."""
            began, before = time.monotonic(), len(listener.rows)
            process.wait(lambda: time.monotonic() - began > seconds, "time to pass")
            return round((len(listener.rows) - before) / (time.monotonic() - began) * seconds)

        counted(1)
        control = counted(3)
        begin = len(listener.rows)
        for _ in range(8):
            stack.enter_context(deaf(process))
        process.wait(lambda: _metric(process, "vision_infer_results_skipped_total") > 200, "rows to be skipped")
        rss = _rss_bytes(process.pid)
        assert counted(5) >= 0.9 * control * 5 / 3 - 5
        assert _rss_bytes(process.pid) - rss < 4 << 20
        assert _metric(process, "vision_infer_clients") == 9
        rows = listener.rows[begin:]
        assert sum(row.get("skipped", 0) for row in rows) <= 0.05 * len(rows)
        for number in range(4):
            frames = rows_of(rows, f"s{number}")
            assert frames == sorted(set(frames))
        assert process.stop()[1] < DRAIN_S + NOISE_S, "stuck clients do not delay the end"


def _metric(process: ServeProcess, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", process.ask("GET", "/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else 0.0
