"""Reads results over the WebSocket and notes when each one came."""

from __future__ import annotations

import json
import threading
import time
from types import TracebackType
from typing import NamedTuple

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from vision_infer.core.time_code import since_ms


class Row(NamedTuple):
    """A result, and when it came."""

    stream: str
    came_ns: int
    """monotonic"""
    told_ms: float
    """its age, as the service says"""
    pts_s: float | None
    inference_ms: float
    moment: int | None
    """the time code that the clock network read; None: another network, or nothing to read"""

    @property
    def true_ms(self) -> int | None:
        """Its age by the time code, when it came; None without one."""
        return None if self.moment is None else since_ms(self.moment, self.came_ns)


class Reader:
    """A thread that reads until the context is left; then :attr:`rows` is whole.

    Args:
        url: of the WebSocket.
        keep: False: rows are only counted.
    """

    def __init__(self, url: str, keep: bool = True) -> None:
        self.rows: list[Row] = []
        self.count = 0
        self._keep = keep
        self._socket = connect(url, max_size=None, open_timeout=30)
        self._thread = threading.Thread(target=self._read, name="reader")

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()
        self._thread.join()

    def _read(self) -> None:
        try:
            for text in self._socket:
                now = time.monotonic_ns()
                self.count += 1
                if not self._keep:
                    continue
                row = json.loads(text)
                found = row["detections"]
                moment = found[0]["class_id"] if found and row["model"] == "clock" else None
                inference_ms = row["latency_ms"]["inference"]
                self.rows.append(Row(row["stream"], now, row["age_ms"], row["pts_s"], inference_ms, moment))
        except ConnectionClosed:
            pass
