"""FFmpeg's log goes to our logger with the source's name, in a limited number of lines, never to the terminal, without a
deadlock."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import av.logging
import pytest

from tests.stream.test_stream_damage import FAST_START
from tests.support import media, odd_files
from vision_infer.stream import ffmpeg_log
from vision_infer.stream.ffmpeg_log import MAX_LINES_PER_SECOND, MAX_LINES_PER_SOURCE, SourceLog
from vision_infer.stream.find import open_source
from vision_infer.stream.source import SourceSpec


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "vision_infer.ffmpeg"]


class HandClock:
    """A clock in seconds that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_have_the_name_of_their_source(caplog: pytest.LogCaptureFixture) -> None:
    damaged, sound = odd_files.overwritten(FAST_START, 0.3, 700), media.clip(media.H264)
    with (
        open_source(SourceSpec("broken", "video", (str(damaged),))) as one,
        open_source(SourceSpec("whole", "video", (str(sound),))) as other,
    ):
        frames, others = one.frames(), other.frames()
        for _ in range(20):  # alternately, on one thread
            next(frames)
            next(others)
    seen = lines(caplog)
    assert seen
    assert all(line.startswith("broken: ") for line in seen)


def test_sources_on_different_threads_are_distinguished(caplog: pytest.LogCaptureFixture) -> None:
    together = threading.Barrier(2, timeout=30)

    def read(name: str, path: Path) -> None:
        together.wait()
        with open_source(SourceSpec(name, "video", (str(path),))) as source:
            list(source.frames())

    damaged = odd_files.overwritten(FAST_START, 0.3, 700)
    threads = [threading.Thread(target=read, args=args) for args in (("a", damaged), ("b", media.clip(media.H264)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert {line.split(":")[0] for line in lines(caplog)} == {"a"}


def test_the_number_of_lines_is_limited_per_second_and_per_source(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    log = SourceLog("camera", clock)
    for number in range(25):
        log.take(logging.ERROR, f"line {number}")
    assert len(lines(caplog)) == MAX_LINES_PER_SECOND
    for _ in range(100):
        clock.now += 1
        for number in range(25):
            log.take(logging.ERROR, f"line {number}")
    assert len(lines(caplog)) == MAX_LINES_PER_SOURCE
    assert log.errors == 25 * 101
    assert log.suppressed == 25 * 101 - MAX_LINES_PER_SOURCE
    log.close()
    assert lines(caplog)[-1] == f"camera: {25 * 101 - MAX_LINES_PER_SOURCE} more FFmpeg log lines were suppressed"


def test_no_password_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = SourceLog("camera")
    log.use_thread()
    av.logging.log(av.logging.ERROR, "http", "cannot open http://user:secret@host/x?token=hidden\n")
    log.close()
    assert lines(caplog) == ["camera: cannot open http://user:***@host/x?token=***"]
    assert log.contains("token=***")


def test_a_line_from_an_ffmpeg_thread_belongs_to_the_only_source(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg_log, "_unattributed", None)  # other tests may have used its lines
    monkeypatch.setattr(ffmpeg_log, "_open", WeakSet())

    def speak() -> None:
        av.logging.log(av.logging.ERROR, "h264", "who am I")

    def on_another_thread() -> None:
        thread = threading.Thread(target=speak)
        thread.start()
        thread.join()

    alone = SourceLog("alone")
    on_another_thread()
    second = SourceLog("second")
    on_another_thread()
    alone.close()
    second.close()
    assert lines(caplog) == ["alone: who am I", "source unknown: who am I"]
    assert second.errors == 0


QUIET = """
import sys
from vision_infer.stream.find import open_source
from vision_infer.stream.source import SourceSpec
with open_source(SourceSpec("a", "video", (sys.argv[1],))) as source:
    print(len(list(source.frames())))
try:
    open_source(SourceSpec("b", "video", (sys.argv[0],)))
except Exception:
    pass
"""


def test_nothing_reaches_the_terminal() -> None:
    path = odd_files.overwritten(FAST_START, 0.3, 700)
    done = subprocess.run([sys.executable, "-c", QUIET, str(path)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() == "39"


OTHERS = """
import logging, sys
import av.logging
av.logging.set_level(av.logging.WARNING)
logging.basicConfig(format="%(name)s", stream=sys.stdout)
from vision_infer.stream.find import open_source
from vision_infer.stream.source import SourceSpec
with open_source(SourceSpec("a", "video", (sys.argv[1],))) as source:
    list(source.frames())
assert av.logging.get_level() == av.logging.WARNING
"""


def test_a_program_with_its_own_log_handler_still_receives_the_log() -> None:
    path = odd_files.overwritten(FAST_START, 0.3, 700)
    done = subprocess.run([sys.executable, "-c", OTHERS, str(path)], capture_output=True, text=True, check=True, timeout=60)
    assert {"libav.h264", "vision_infer.ffmpeg"} <= set(done.stdout.split())


LEAVING = """
import sys
from vision_infer.stream.find import open_source
from vision_infer.stream.source import SourceSpec
for round in range(18):
    with open_source(SourceSpec("clip", "video", (sys.argv[1],)), 8) as source:
        frames = source.frames()
        for _ in range(round % 9):
            next(frames, None)
    del source, frames
print("left")
"""


def test_closing_a_damaged_file_while_its_decoder_has_threads() -> None:
    """PyAV holds the GIL while it frees a decoder: a decoder thread that logs at that time would wait forever.

    The test uses a separate process, since one that hangs cannot be interrupted. Without the workaround it hangs at once.
    """
    large = replace(media.H264, width=1280, height=720, frames=60, suffix=".mkv")
    path = odd_files.scratched(replace(large, options=(*large.options, ("crf", "10"))), 1500, 200)
    done = subprocess.run([sys.executable, "-c", LEAVING, str(path)], capture_output=True, text=True, check=True, timeout=250)
    assert done.stdout.strip() == "left"
    assert done.stderr == ""
