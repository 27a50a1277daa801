"""A video behind a URL and on standard input: its frames, and errors of servers."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import media
from tests.support.web import serve
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.stream.files import open_video
from vision_infer.stream.find import open_source
from vision_infer.stream.source import ReadOptions, ReadReport, SourceSpec

STREAMABLE = replace(media.WITH_AAC, frames=50, width=320, height=240, format_options=(("movflags", "faststart"),))
INDEX_AT_THE_END = replace(STREAMABLE, suffix=".mov", format_options=(), sound=media.Sound("pcm_s16le", seconds=2.0))
"""Uncompressed audio makes it larger than the buffer in which FFmpeg can seek back."""
MATROSKA = replace(media.B_FRAMES, suffix=".mkv")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    files = {"clip.mp4": STREAMABLE, "end.mov": INDEX_AT_THE_END, "clip.mkv": MATROSKA}
    contents = {name: media.clip(recipe).read_bytes() for name, recipe in files.items()}
    contents["list.m3u8"] = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
    contents["text"] = b"no video at all\n" * 100
    with serve(contents) as address:
        yield address


WHOLE = ReadOptions()


def read(url: str, options: ReadOptions = WHOLE) -> tuple[list[Frame], ReadReport]:
    with open_source(SourceSpec("url", "video", (url,), read=options)) as source:
        return list(source.frames()), source.report


def failure(url: str) -> str:
    with pytest.raises(StreamError) as caught:
        read(url)
    error = caught.value
    assert error.hint
    shown = "".join(traceback.format_exception(error))
    assert "secret" not in shown, "not even a traceback shows a password"
    assert "hidden" not in shown
    return str(error)


@pytest.mark.parametrize("how", ["ranges", "plain", "moved"])
@pytest.mark.parametrize(("name", "recipe"), [("clip.mp4", STREAMABLE), ("clip.mkv", MATROSKA)])
def test_a_file_on_a_server_is_read_like_a_local_file(server: str, how: str, name: str, recipe: media.Clip) -> None:
    frames, report = read(f"{server}/{how}/{name}")
    assert [frame.pts_s for frame in frames] == [float(one.time) for one in media.decoded(media.clip(recipe))]
    assert report == ReadReport()


@pytest.mark.parametrize("how", ["ranges", "plain"])
def test_a_start_time_with_and_without_range_requests(server: str, how: str) -> None:
    frames, _ = read(f"{server}/{how}/clip.mp4", ReadOptions(start_s=1.0, end_s=1.2))
    assert [round(frame.pts_s or 0, 6) for frame in frames] == [1.0, 1.04, 1.08, 1.12, 1.16]


def test_an_index_at_the_end_requires_range_requests(server: str) -> None:
    assert len(read(f"{server}/ranges/end.mov")[0]) == 50
    assert "cannot seek" in failure(f"{server}/plain/end.mov")


def test_the_audio_of_a_url_is_not_read_again(server: str) -> None:
    with open_source(SourceSpec("url", "video", (f"{server}/ranges/clip.mp4",))) as source:
        assert not source.info.has_audio
    assert open_source(SourceSpec("file", "video", (str(media.clip(STREAMABLE)),))).info.has_audio


@pytest.mark.parametrize((("how", "status")), [("gone", "404"), ("forbidden", "403"), ("locked", "401"), ("failing", "5XX")])
def test_a_server_that_rejects_the_request(server: str, how: str, status: str) -> None:
    address = server.replace("http://", "http://user:secret@")
    text = failure(f"{address}/{how}/clip.mp4?token=hidden")
    assert "the server rejected the request" in text
    assert status in text
    assert "user:***@" in text


@pytest.mark.parametrize("target", ["elsewhere/etc/hostname", "ranges/list.m3u8"])
def test_a_server_cannot_cause_local_files_to_be_read(server: str, target: str) -> None:
    assert target.rpartition("/")[2] in failure(f"{server}/{target}")


def test_no_server_at_the_address() -> None:
    assert "cannot be opened" in failure("http://user:secret@127.0.0.1:9/clip.mp4?key=hidden")


def test_a_url_without_video(server: str) -> None:
    assert "FFmpeg cannot read it as video" in failure(f"{server}/ranges/text")


def test_a_server_that_closes_the_connection(server: str) -> None:
    seen: list[float | None] = []
    with (
        pytest.raises(StreamError, match="reading stopped"),
        open_source(SourceSpec("url", "video", (f"{server}/break/clip.mkv",))) as source,
    ):
        seen.extend(frame.pts_s for frame in source.frames())
    whole = [float(one.time) for one in media.decoded(media.clip(MATROSKA))]
    assert 10 < len(seen) < len(whole)
    assert seen == whole[: len(seen)]


@pytest.mark.parametrize("how", ["stall", "silent"])
def test_a_server_that_stops_sending(server: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_video, "HTTP_TIMEOUT_S", 0.4)
    begin = time.monotonic()
    text = failure(f"{server}/{how}/clip.mp4")
    assert time.monotonic() - begin < 8
    assert "server" in text


READ_STANDARD_INPUT = """
import sys
from vision_infer.stream.find import open_source
from vision_infer.stream.source import ReadOptions, SourceSpec
options = ReadOptions(start_s=float(sys.argv[1]))
try:
    with open_source(SourceSpec("stdin", "video", ("-",), read=options)) as source:
        print([round(frame.pts_s, 3) for frame in source.frames()], source.info.has_audio)
except Exception as error:
    print(type(error).__name__, error)
"""


def piped(path: Path, start: float = 0.0) -> str:
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as cat:
        command = [sys.executable, "-c", READ_STANDARD_INPUT, str(start)]
        done = subprocess.run(command, stdin=cat.stdout, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


def test_standard_input() -> None:
    times = [round(float(one.time), 3) for one in media.decoded(media.clip(MATROSKA))]
    assert piped(media.clip(MATROSKA)) == f"{times} False\n"


def test_standard_input_with_a_start_time() -> None:
    """Nothing can be skipped: the video is decoded up to the start time."""
    times = [round(float(one.time), 3) for one in media.decoded(media.clip(STREAMABLE))]
    assert piped(media.clip(STREAMABLE), 1.5) == f"{[time for time in times if time >= 1.5]} False\n"


def test_standard_input_that_requires_seeking() -> None:
    text = piped(media.clip(INDEX_AT_THE_END))
    assert text.startswith("StreamError standard input: ")
    assert "cannot seek" in text


def test_empty_standard_input(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert piped(tmp_path / "empty").startswith("StreamError standard input: ")
