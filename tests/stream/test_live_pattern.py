"""The test pattern: its frames contain the time at which they were drawn, are paced by the clock, and end when stopped."""

from __future__ import annotations

import threading
import time
from fractions import Fraction
from itertools import islice, pairwise

import numpy as np
import pytest

from tests.support.hand_clock import HandClock
from vision_infer.core.errors import StreamError
from vision_infer.core.geometry import Size
from vision_infer.core.time_code import MODULUS, moment_ms
from vision_infer.stream.find import open_source
from vision_infer.stream.live.pattern_source import PatternSource
from vision_infer.stream.redact import redact
from vision_infer.stream.source import Source, SourceSpec
from vision_infer.stream.time_code_reader import read

MS = 1_000_000


class Waiting(threading.Event):
    """The event that a source waits with: it advances the test's clock, and records the waits."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__()
        self.clock = clock
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.clock.now += round(timeout * 1e9)
        return self.is_set()


def spec(url: str = "test://") -> SourceSpec:
    return SourceSpec("pattern", "live", (url,))


def pattern(url: str = "test://", clock: HandClock | None = None) -> tuple[PatternSource, HandClock, Waiting]:
    clock = clock or HandClock(5_000 * MS)
    stopping = Waiting(clock)
    return PatternSource(spec(url), stopping, clock), clock, stopping


def test_the_pattern_is_opened_by_its_url() -> None:
    with open_source(spec("test://?size=320x180&fps=12.5")) as source:
        assert (source.info.size, source.info.frame_rate, source.info.frames) == (Size(320, 180), Fraction(25, 2), None)
        assert next(source.frames()).image.size == Size(320, 180)


def test_each_frame_contains_the_time_at_which_it_was_drawn() -> None:
    source, _, _ = pattern(clock=HandClock((MODULUS - 100) * MS))
    frames = list(islice(source.frames(), 8))
    assert [frame.index for frame in frames] == list(range(8))
    assert [read(frame.image.to_rgb()) for frame in frames] == [moment_ms(frame.trace.captured_ns) for frame in frames]
    assert {frame.trace.clock for frame in frames} == {"camera"}
    assert read(frames[0].image.to_rgb()) == MODULUS - 100
    assert (read(frames[-1].image.to_rgb()) or MODULUS) < 200, "moments wrap"


@pytest.mark.parametrize(("url", "fps"), [("test://", 30), ("test://?fps=5", 5), ("test://?fps=29.97", Fraction("29.97"))])
def test_frames_are_paced_by_the_clock(url: str, fps: Fraction) -> None:
    source, clock, _ = pattern(url)
    begin = clock.now
    for number, frame in enumerate(islice(source.frames(), 40)):
        due = begin + round(number * 1e9 / fps)
        assert 0 <= frame.trace.captured_ns - due < MS
        assert frame.pts_s == pytest.approx(number / fps)


def test_frames_that_the_caller_misses_are_lost() -> None:
    source, clock, _ = pattern("test://?fps=10")
    frames = source.frames()
    assert next(frames).pts_s == 0
    clock.now += 1_030 * MS
    late = next(frames)
    assert (late.index, late.pts_s) == (1, 1.0)
    assert late.trace.captured_ns == clock.now, "it is drawn now, not older than it says"
    assert next(frames).pts_s == pytest.approx(1.1)


def test_the_ball_moves() -> None:
    source, _, _ = pattern("test://?size=320x180&fps=10")
    shown = [frame.image.to_rgb().astype(int) for frame in islice(source.frames(), 31)]
    below_the_code = [image[60:] for image in shown]
    for before, after in pairwise(below_the_code[5:]):
        assert 50 < (np.abs(before - after).max(axis=2) > 20).sum() < 60 * 320, "a ball moves, the wall stays"


def test_the_pattern_can_be_stopped_before_and_after_the_first_frame() -> None:
    source, _, stopping = pattern()
    frames = source.frames()
    assert next(frames).index == 0
    stopping.set()
    assert list(frames) == []
    source, _, stopping = pattern()
    stopping.set()
    assert list(source.frames()) == []


def test_stopping_ends_the_wait_for_the_next_frame() -> None:
    stopping = threading.Event()
    source = PatternSource(spec("test://?fps=0.01"), stopping)
    frames = source.frames()
    next(frames)
    threading.Timer(0.1, stopping.set).start()
    begin = time.monotonic()
    assert list(frames) == []
    assert time.monotonic() - begin < 50, "of the 100 s to the next turn"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("test://?size=100x90", "invalid size for the test pattern. The size is WIDTHxHEIGHT, at least 160x90"),
        ("test://?size=99999x99999", "invalid size for the test pattern"),
        ("test://?size=640", "invalid size for the test pattern"),
        ("test://?size=-640x-360", "invalid size for the test pattern"),
        ("test://?fps=0", "invalid rate for the test pattern. The maximum is 240"),
        ("test://?fps=1000", "invalid rate for the test pattern"),
        ("test://?fps=nan", "invalid rate for the test pattern"),
        ("test://?fps=", "invalid rate for the test pattern"),
        ("test://?speed=2", "the test pattern has no speed. Write test://"),
        ("test:///path", "the test pattern has no path"),
    ],
)
def test_unknown_parameters_are_reported(url: str, message: str) -> None:
    with pytest.raises(StreamError) as caught:
        pattern(url)
    assert str(caught.value).startswith(f"{redact(url)}: {message}")


def test_the_pattern_implements_the_source_protocol() -> None:
    source: Source = pattern()[0]
    with source as opened:
        assert opened.spec.name == "pattern"
        assert opened.report.gaps == 0
