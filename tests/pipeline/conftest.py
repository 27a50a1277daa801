"""Fixtures for the tests of the pipeline."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.pipeline.fakes import LONG_S, FakeImage, FakeSink
from vision_infer.core.errors import OutputError
from vision_infer.pipeline import launcher as launcher_module
from vision_infer.sink.sink import OutputSpec, Sink
from vision_infer.stream.source import Source

Sinks = dict[str, FakeSink | Exception]


@pytest.fixture
def sinks(monkeypatch: pytest.MonkeyPatch) -> Sinks:
    """Sinks by the path of their output; an exception is raised instead of opening a sink."""
    registered: Sinks = {}

    def open_sink(output: OutputSpec, source: Source | None, name: str = "all", sound: object = None) -> Sink:
        sink = registered.get(output.path, OutputError(f"{output.path}: not registered"))
        if isinstance(sink, Exception):
            raise sink
        return sink

    monkeypatch.setattr(launcher_module, "open_sink", open_sink)
    return registered


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Check that every thread of a test has ended after it."""
    before = set(threading.enumerate())
    FakeImage.alive.clear()
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG_S)
        assert not thread.is_alive(), f"{thread.name} is still running"
