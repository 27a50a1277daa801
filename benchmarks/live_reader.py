"""A client that reads results over the WebSocket and records the time of their arrival."""

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
    """A result and the time of its arrival."""

    stream: str
    received_ns: int
    """The time of arrival, monotonic nanoseconds."""
    reported_ms: float
    """The age that the service reports, milliseconds."""
    pts_s: float | None
    inference_ms: float
    moment: int | None
    """The time code that the clock model read; None with another model, or if it read none."""

    @property
    def true_ms(self) -> int | None:
        """The age at arrival by the time code, milliseconds; None without one."""
        return None if self.moment is None else since_ms(self.moment, self.received_ns)


class Reader:
    """Reads on a thread until the context ends; then :attr:`rows` is complete.

    Args:
        url: The URL of the WebSocket.
        keep: Whether to store the rows; otherwise they are only counted.
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
