"""Sources with limited networks."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.live_reading import Reading
from tests.support.live_web import hls_writer, live_web
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.live.allowed_networks import allowed_address, with_address
from vision_infer.stream.live.guarded_http import GuardedHttp
from vision_infer.stream.source import LiveOptions

ONLY_THIS = LiveOptions(open_timeout_s=10, stall_timeout_s=5, allow_networks=("127.0.0.1/32",))
ELSEWHERE = LiveOptions(open_timeout_s=10, stall_timeout_s=5, allow_networks=("10.0.0.0/8", "fd00::/8"))


@pytest.mark.parametrize(
    ("answers", "networks", "address"),
    [
        (["10.1.2.3"], ("10.0.0.0/8",), "10.1.2.3"),
        (["192.0.2.1", "10.1.2.3"], ("10.0.0.0/8",), "10.1.2.3"),
        (["fd00::7"], ("10.0.0.0/8", "fd00::/8"), "fd00::7"),
        (["::ffff:10.1.2.3"], ("10.0.0.0/8",), "::ffff:10.1.2.3"),
        (["169.254.169.254"], ("10.0.0.0/8",), None),
        (["::ffff:127.0.0.1"], ("10.0.0.0/8",), None),
        (["fe80::1%eth0"], ("fe80::/10",), "fe80::1%eth0"),
    ],
)
def test_the_resolved_address_is_checked(
    monkeypatch: pytest.MonkeyPatch, answers: list[str], networks: tuple[str, ...], address: str | None
) -> None:
    def resolve(host: str, port: int, type: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        assert host == "camera"
        return [(0, type, 0, "", (one, port)) for one in answers]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    if address is not None:
        assert allowed_address("rtsp://user:secret@camera/x", networks) == address
        return
    with pytest.raises(RefusedError, match="outside") as caught:
        allowed_address("rtsp://user:secret@camera/x", networks)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["rtsp://", "rtsp:///x", "rtsp://[::1/x", "rtsp://host:port/x", "http://@/x"])
def test_a_url_without_a_host_is_rejected(url: str) -> None:
    with pytest.raises(RefusedError, match="host"):
        allowed_address(url, ("0.0.0.0/0",))


def test_a_host_name_that_cannot_be_resolved() -> None:
    with pytest.raises(StreamError, match="cannot be resolved"):
        allowed_address("rtsp://camera.invalid/x", ("0.0.0.0/0",))


@pytest.mark.parametrize(
    ("url", "address", "pinned"),
    [
        ("rtsp://u:p@cam:8554/a?b=c", "10.0.0.1", "rtsp://u:p@10.0.0.1:8554/a?b=c"),
        ("rtsp://cam/a", "fd00::7", "rtsp://[fd00::7]/a"),
        ("rtsp://[::1]:554/a", "10.0.0.1", "rtsp://10.0.0.1:554/a"),
        ("rtsp://u:p@x@[::1]/a", "::2", "rtsp://u:p@x@[::2]/a"),
    ],
)
def test_the_address_replaces_the_host_name(url: str, address: str, pinned: str) -> None:
    assert with_address(url, address) == pinned


def ended(url: str, live: LiveOptions) -> StreamError:
    with Reading(url, live) as reading:
        error = reading.wait_for_end()
    assert error is not None
    assert not reading.got
    assert "s3cret" not in str(error)
    return error


@pytest.mark.parametrize("path", ["live.ts", "live.mjpeg", "live.flv"])
def test_live_video_from_an_allowed_server(path: str) -> None:
    with live_web() as address, Reading(f"{address}/{path}", ONLY_THIS) as reading:
        reading.wait_for_frames(10)
        assert (reading.error, reading.crash, reading.report.damaged) == (None, None, 0)


@pytest.mark.slow  # 5 s
def test_hls_from_an_allowed_server(tmp_path: Path) -> None:
    with live_web(tmp_path) as address, hls_writer(tmp_path):
        with Reading(f"{address}/live.mjpeg") as other:  # the first segments are written in the meantime
            other.wait_for_frames(60)
        with Reading(f"{address}/files/live.m3u8", ONLY_THIS) as reading:
            reading.wait_for_frames(60)
            assert (reading.error, reading.crash, reading.report.damaged) == (None, None, 0)


@pytest.mark.parametrize("scheme", ["http", "https", "rtsp", "rtmp", "rtsps"])
def test_a_host_outside_the_networks_is_rejected_without_a_connection(scheme: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        error = ended(f"{scheme}://user:s3cret@127.0.0.1:{listener.getsockname()[1]}/x", ELSEWHERE)
        assert isinstance(error, RefusedError)
        assert "outside the allowed networks" in str(error)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:{port}/live.ts", "file:///etc/hostname", "rtsp://127.0.0.2/x", "//127.0.0.2/x"]
)
def test_a_redirect_is_checked(target: str) -> None:
    with live_web() as address:
        port = address.rpartition(":")[2]
        error = ended(f"{address}/moved?to={target.format(port=port)}", ONLY_THIS)
    assert isinstance(error, RefusedError)


def test_an_allowed_redirect_is_followed_and_a_redirect_loop_is_not() -> None:
    with live_web() as address:
        with Reading(f"{address}/moved?to={address}/live.mjpeg", ONLY_THIS) as reading:
            reading.wait_for_frames(3)
        assert isinstance(ended(f"{address}/moved?to=/moved%3Fto%3D/moved%253Fto%253D/moved", ONLY_THIS), StreamError)


@pytest.mark.parametrize("entry", ["http://127.0.0.2:{port}/live.ts", "file:///etc/hostname", "concat:http://127.0.0.2/a|b"])
def test_the_entries_of_a_playlist_are_checked(tmp_path: Path, entry: str) -> None:
    with socket.socket() as listener, live_web(tmp_path) as address:
        listener.bind(("127.0.0.2", 0))
        listener.listen()
        listener.settimeout(0.2)
        target = entry.format(port=listener.getsockname()[1])
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"
        (tmp_path / "list.m3u8").write_text(text)
        ended(f"{address}/files/list.m3u8", ONLY_THIS)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusals_have_the_usual_messages(status: int) -> None:
    with live_web() as address:
        url = f"{address}/status/{status}?token=s3cret".replace("http://", "http://user:s3cret@")
        assert isinstance(ended(url, ONLY_THIS), RefusedError)
        assert not isinstance(ended(url.replace(f"/{status}?", "/503?"), ONLY_THIS), RefusedError)


def test_a_server_that_sends_no_response() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        live = LiveOptions(open_timeout_s=1, allow_networks=("127.0.0.0/8",))
        assert "within 1 s" in str(ended(f"http://127.0.0.1:{listener.getsockname()[1]}/x", live))


@pytest.mark.parametrize("headers", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
def test_a_server_that_sends_single_bytes_is_given_up(headers: bytes) -> None:
    """Whether they belong to the status line or to the size of a chunk: no read of them takes as long as the limit."""
    over = threading.Event()

    def run() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(headers)
            while not over.wait(0.05):
                connection.sendall(b"0" if headers else b"H")

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=run)
        thread.start()
        web = GuardedHttp(("127.0.0.0/8",), 0.4)
        began = time.monotonic()
        try:
            with pytest.raises(StreamError, match=r"0\.4 s"):
                web(f"http://127.0.0.1:{listener.getsockname()[1]}/x", 0, None).read(100)
            assert time.monotonic() - began < 1.5
        finally:
            over.set()
            web.close()
            thread.join()


def test_files_and_devices_are_not_opened(tmp_path: Path) -> None:
    for path in (str(tmp_path / "clip.mp4"), "/dev/video0"):
        assert isinstance(ended(path, ONLY_THIS), RefusedError)
