"""Live video from a web server, HLS, and files played in real time."""

from __future__ import annotations

import itertools
import statistics
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from tests.support import media
from tests.support.live_reading import Reading
from tests.support.live_web import hls_writer, live_web
from tests.support.waiting import wait_until
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import RefusedError
from vision_infer.stream.source import LiveOptions

SHORT = LiveOptions(open_timeout_s=5, stall_timeout_s=2)
KINDS = ["ts", "flv", "mjpeg"]


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with live_web() as address:
        yield address


# Endless responses


@pytest.fixture(scope="module")
def young(web: str) -> dict[str, Reading]:
    """Read all formats for 2.5 seconds."""
    with ExitStack() as opened:
        readings = {kind: opened.enter_context(Reading(f"{web}/live.{kind}")) for kind in KINDS}
        Reading.wait_for_each(readings.values(), 60)
    return readings


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_young_and_their_capture_time_is_right(young: dict[str, Reading], kind: str) -> None:
    """MPEG-TS is two frames late, because its demuxer and its parser each wait for the next frame."""
    reading = young[kind]
    assert reading.opened_s < 10, "expected: below 1 s"
    assert reading.got[0].true_age_ms < 600, "probed data is discarded"
    assert reading.median_age_ms(40) < 250, "expected: 82 ms for MPEG-TS, otherwise 2"
    wrong = sorted(abs(got.captured_wrong_ms) for got in reading.got[5:] if got.moment is not None)
    assert wrong[len(wrong) // 2] <= 25, "expected: 2 ms"
    assert not reading.dropped(DropReason.STALE)


def test_a_stream_that_needs_longer_probing_is_reopened(web: str) -> None:
    """The short probing finds only audio, which must not lead to a refusal."""
    with Reading(f"{web}/live.ts?image_from=30", LiveOptions(open_timeout_s=20)) as reading:
        reading.wait_for_frames(20)
        assert reading.opened_s > 0.5, "twice"
    assert all(got.true_age_ms < 700 for got in reading.got)


@pytest.fixture(scope="module")
def after_a_stall(web: str) -> dict[str, Reading]:
    """Read all formats with a stall of two seconds."""
    with ExitStack() as opened:
        patient = LiveOptions(stall_timeout_s=10)
        readings = {kind: opened.enter_context(Reading(f"{web}/live.{kind}?stall_at=60", patient)) for kind in KINDS}
        for reading in readings.values():
            reading.wait(lambda reading=reading: _late(reading) > 20, "late frames")  # type: ignore[misc]
        Reading.wait_for_each(readings.values(), 30)
    return readings


def _late(reading: Reading) -> int:
    """Return the number of late frames; on a busy machine, some of them are not decoded."""
    reasons = (DropReason.STALE, DropReason.NOT_REFERENCED, DropReason.TO_KEYFRAME)
    return sum(reading.dropped(reason) for reason in reasons)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_burst_after_a_stall_is_not_inferred(after_a_stall: dict[str, Reading], kind: str) -> None:
    reading = after_a_stall[kind]
    assert reading.median_age_ms(20) < 250
    slack = 150 if kind != "mjpeg" else 400  # without timestamps, lateness is estimated from the frame rate
    assert all(got.true_age_ms < 500 + slack for got in reading.got if got.moment is not None)


@pytest.mark.parametrize("kind", ["ts", "flv"])
def test_a_backlog_on_opening_is_not_inferred(web: str, kind: str) -> None:
    """The server sends a backlog of five seconds; probing takes the first half."""
    with Reading(f"{web}/live.{kind}?backlog=125") as reading:
        reading.wait_for_frames(30)
        assert reading.dropped(DropReason.STALE) + reading.dropped(DropReason.TO_KEYFRAME) > 20
    assert all(got.true_age_ms < 600 for got in reading.got if got.moment is not None)


def test_a_closed_connection_ends_the_source(web: str) -> None:
    with Reading(f"{web}/live.ts?frames=60") as reading:
        assert reading.wait_for_end() is None
    assert len(reading.got) > 20


def test_packets_without_frames_are_detected(web: str) -> None:
    """Sound continues, which the demuxer drops, or video becomes noise, so that no read times out."""
    with (
        Reading(f"{web}/live.ts?no_image_from=60", SHORT) as sound,
        Reading(f"{web}/live.ts?noise_from=60", SHORT) as noise,
    ):
        Reading.wait_for_each((sound, noise), 10)
        errors = [sound.wait_for_end(), noise.wait_for_end()]
    reasons = ("no data for 2 s", "packets arrive, but no frame could be decoded for 2 s")
    for reading, error, reason in zip((sound, noise), errors, reasons, strict=True):
        assert error is not None
        assert reason in str(error)
        assert 2 < (reading.ended_at_ns - reading.got[-1].at_ns) / 1e9 < 15


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusals(web: str, status: int) -> None:
    url = f"{web}/status/{status}?token=s3cret".replace("http://", "http://user:s3cret@")
    with Reading(url, SHORT) as reading:
        error = reading.wait_for_end()
    assert isinstance(error, RefusedError)
    assert "s3cret" not in "".join(traceback.format_exception(error))


def test_a_failing_server_is_retried(web: str) -> None:
    with Reading(f"{web}/status/503", SHORT) as reading:
        error = reading.wait_for_end()
    assert error is not None
    assert not isinstance(error, RefusedError)
    assert "server failed" in str(error)


def test_redirects_are_followed_to_servers_only(web: str, tmp_path: Path) -> None:
    with Reading(f"{web}/moved?to={web}/live.mjpeg") as reading:
        reading.wait_for_frames(3)
    clip = media.clip(media.H264)
    with Reading(f"{web}/moved?to=file://{clip}", SHORT) as reading:
        error = reading.wait_for_end()
    assert error is not None
    assert not reading.got


@pytest.mark.parametrize("entry", ["file://{clip}", "{clip}", "concat:{clip}", "subfile,,start,0,end,0,,:{clip}"])
def test_a_playlist_cannot_open_local_files(tmp_path: Path, entry: str) -> None:
    clip = media.clip(replace(media.H264, suffix=".ts"))
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{entry.format(clip=clip)}\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile '{clip}'\n")
    with live_web(tmp_path) as address:
        for name in ("list.m3u8", "list.txt"):
            with Reading(f"{address}/files/{name}", SHORT) as reading:
                reading.wait_for_end()
            assert not reading.got


# HLS arrives in bursts


@pytest.mark.slow
def test_hls_is_played_smoothly(tmp_path: Path) -> None:
    with live_web(tmp_path) as address, hls_writer(tmp_path):
        wait_until(lambda: "#EXTINF" in _text(tmp_path / "live.m3u8"), "the first segment to be written")
        with Reading(f"{address}/files/live.m3u8", LiveOptions(open_timeout_s=20, stall_timeout_s=10)) as reading:
            reading.wait_for_frames(80)
    assert {got.frame.trace.clock for got in reading.got} == {"playout"}
    gaps = [(later.at_ns - earlier.at_ns) / 1e6 for earlier, later in itertools.pairwise(reading.got)]
    assert statistics.median(gaps) == pytest.approx(40, abs=10), "not 25 frames at once every second"
    ages = [(got.at_ns - got.frame.trace.captured_ns) / 1e6 for got in reading.got]
    assert statistics.median(ages) < 100
    assert reading.report.dropped == {}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


# Files in real time


@pytest.mark.parametrize("recipe", [media.H264, media.B_FRAMES, media.VARIABLE], ids=["h264", "b-frames", "variable"])
def test_a_file_is_played_in_real_time(recipe: media.Clip) -> None:
    path = media.clip(recipe)
    expected = [float(one.time or 0) for one in media.decoded(path)]
    with Reading(str(path)) as reading:
        assert reading.wait_for_end() is None
    assert [got.frame.pts_s for got in reading.got] == pytest.approx(expected, abs=1e-6), "every frame exactly once"
    played = (reading.got[-1].frame.trace.captured_ns - reading.got[0].frame.trace.captured_ns) / 1e9
    assert played == pytest.approx(expected[-1] - expected[0], abs=0.01)
    took = (reading.got[-1].at_ns - reading.got[0].at_ns) / 1e9
    assert took > (expected[-1] - expected[0]) * 0.8
    assert all(got.frame.trace.clock == "playout" for got in reading.got)
    assert reading.report.dropped == {}


@pytest.mark.parametrize("recipe", [pytest.param(media.H264, marks=pytest.mark.slow), media.B_FRAMES], ids=["h264", "b-frames"])
def test_a_looping_file_plays_smoothly(recipe: media.Clip) -> None:
    path = media.clip(recipe)
    count = len(list(media.decoded(path)))
    with Reading(str(path), LiveOptions(loop=True)) as reading:
        reading.wait_for_frames(2 * count + 5)
    times = [got.frame.pts_s or 0.0 for got in reading.got]
    assert all(later - earlier == pytest.approx(0.04, abs=1e-6) for earlier, later in itertools.pairwise(times))
    due = [got.frame.trace.captured_ns / 1e9 for got in reading.got]
    assert due[-1] - due[0] == pytest.approx(times[-1] - times[0], abs=0.1)
    assert [got.frame.index for got in reading.got] == list(range(len(reading.got)))


def test_a_waiting_file_can_be_stopped() -> None:
    slow = media.clip(replace(media.H264, rate=Fraction(1, 5), frames=5))
    with Reading(str(slow), LiveOptions(loop=True, stall_timeout_s=1)) as reading:
        reading.wait_for_frames(1)
        began = time.monotonic()
    assert time.monotonic() - began < 4, "expected: immediately; the next frame is due after 5 s"


def test_a_file_without_frames_does_not_spin(tmp_path: Path) -> None:
    data = media.clip(media.H264).read_bytes()
    begin = data.index(b"mdat") + 4
    (tmp_path / "noise.mp4").write_bytes(data[:begin] + bytes(len(data) - begin) if data.index(b"moov") < begin else data[:9])
    with Reading(str(tmp_path / "noise.mp4"), LiveOptions(loop=True)) as reading:
        assert reading.wait_for_end() is not None


def test_a_missing_file_and_a_file_with_audio_only() -> None:
    with Reading("/nowhere/clip.mp4") as missing:
        error = missing.wait_for_end()
    assert error is not None
    assert "no such file" in str(error)
    assert not isinstance(error, RefusedError), "the file may reappear"
    with Reading(str(media.clip(media.ONLY_SOUND))) as sound:
        assert isinstance(sound.wait_for_end(), RefusedError)
