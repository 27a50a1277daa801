"""Helpers that write rows to a log and read them from its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sink.results import found, frame, result_of
from vision_infer.sink.archive.jsonl_log import JsonlLog

SECOND = 1_000_000_000
NOW = 1_795_543_200 * SECOND
"""2026-11-24 18:00:00 UTC"""
DAY = 86_400 * SECOND


class HandClock:
    def __init__(self) -> None:
        self.passed = 0
        self.set_back = 0

    def monotonic_ns(self) -> int:
        return 5_000 + self.passed

    def wall_ns(self) -> int:
        return NOW + self.passed - self.set_back


@pytest.fixture(autouse=True)
def close_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the logs that a test leaves open, as a service would."""
    logs: list[JsonlLog] = []
    init = JsonlLog.__init__

    def remember(self: JsonlLog, *args: Any, **options: Any) -> None:
        logs.append(self)
        init(self, *args, **options)

    monkeypatch.setattr(JsonlLog, "__init__", remember)
    yield
    for log in logs:
        if hasattr(log, "_targets"):
            log.close(True)


def add(log: JsonlLog, index: int, stream: str = "clip", boxes: int = 2) -> None:
    one = frame(index, index / 25, stream=stream)
    log.write(one, result_of(one, found(boxes)))


def frames(*paths: Path) -> list[int]:
    """Return the frame numbers of the rows, and check that every row is whole."""
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    assert text.endswith("\n") or not text
    return [json.loads(line)["frame"] for line in text.splitlines()]


def state(log: JsonlLog) -> tuple[int, str | None]:
    return log.dropped, log.error


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())
