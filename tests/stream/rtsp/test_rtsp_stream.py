"""A connection to a camera: redirects, allowed networks, losses over UDP, and cameras that FFmpeg has to read."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tests.support.rtp_packets import SSRC, rtp, slice264
from tests.support.waiting import wait_until
from vision_infer.config.secrets.credentials import CameraCredentials
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.live.ingest import open_packets
from vision_infer.stream.live.rtp_packets import RtpPackets
from vision_infer.stream.live.rtsp_stream import RtspStream, UnsupportedByRtpError
from vision_infer.stream.rtsp.message import MessageReader, RtspSyntaxError, ServerRequest, interleaved_bytes, request_bytes
from vision_infer.stream.source import LiveOptions, SourceSpec

SHORT = LiveOptions(open_timeout_s=1, stall_timeout_s=0.5)
SDP = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"


Answers = dict[str, bytes | str | Callable[[ServerRequest], bytes | str]]


def reply(request: ServerRequest, *lines: str, status: str = "200 OK", body: str = "") -> bytes:
    head = [f"RTSP/1.0 {status}", f"CSeq: {request.cseq}", f"Content-Length: {len(body)}", *lines, "", body]
    return "\r\n".join(head).encode()


@contextmanager
def camera(
    answers: Answers, after_play: bytes = b"", tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[ServerRequest]]]:
    """Run a server that gives one answer per method, a body, a whole response, or what a function makes of the request.

    Yields its port and the requests.
    """
    asked: list[ServerRequest] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        reader = MessageReader()
        with suppress(OSError), connection if tls is None else tls.wrap_socket(connection, server_side=True) as connection:
            while data := connection.recv(65_536):
                for request in reader.push(data):
                    if not isinstance(request, ServerRequest):
                        continue
                    asked.append(request)
                    answer = answers.get(request.method, "")
                    answer = answer(request) if callable(answer) else answer
                    if isinstance(answer, bytes):
                        connection.sendall(answer.replace(b"CSEQ", str(request.cseq).encode()))
                    else:
                        connection.sendall(reply(request, "Session: 1", body=answer))
                    if request.method == "PLAY":
                        connection.sendall(after_play)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def moved(url: str) -> bytes:
    return f"RTSP/1.0 302 Moved\r\nCSeq: CSEQ\r\nLocation: {url}\r\n\r\n".encode()


def packets(count: int) -> bytes:
    return b"".join(interleaved_bytes(0, rtp(slice264(5), at, at * 3000, True)) for at in range(count))


def test_packets_have_a_decoding_time_until_one_goes_back_in_time() -> None:
    def times(*given: tuple[int, int]) -> list[bool]:
        sent = [rtp(slice264(kind), at, timestamp, True) for at, (kind, timestamp) in enumerate(given)]
        with camera({"DESCRIBE": SDP}, b"".join(interleaved_bytes(0, packet) for packet in sent)) as (port, _):
            spec = SourceSpec("door", "live", (f"rtsp://127.0.0.1:{port}/",), live=SHORT)
            packets = RtpPackets(spec, threading.Event(), SYSTEM_CLOCK, failed=lambda reason: None)
            try:
                return [times.dts_ns is not None for _, times in islice(packets.read(), len(given))]
            finally:
                packets.close()

    assert times((5, 0), (1, 9000), (1, 3000), (1, 6000)) == [True, True, False, False]
    assert times((5, 90_000), (1, 93_000), (5, 0), (1, 3000)) == [True] * 4  # the camera has restarted


def test_a_redirect_is_followed_without_the_password_on_another_host() -> None:
    with camera({"DESCRIBE": SDP}, packets(3)) as (port, asked):
        target = moved(f"rtsp://localhost:{port}/other")
        with (
            camera({"DESCRIBE": target}) as (first, _),
            RtspStream(f"rtsp://admin:secret@127.0.0.1:{first}/live", SHORT, threading.Event()) as stream,
        ):
            assert [read.timed.picture.timestamp for read in islice(stream.read(), 3)] == [0, 3000, 6000]
    assert {request.url for request in asked} == {f"rtsp://localhost:{port}/other"}
    assert all(request.headers.get("authorization") is None for request in asked)


@pytest.mark.parametrize("others", [{}, {"localhost": "other"}])
@pytest.mark.parametrize("own", ["", "own:own@"])
def test_each_host_of_a_redirect_receives_the_credentials_for_that_host(own: str, others: dict[str, str]) -> None:
    entries = tuple(
        CameraCredentials.model_validate({"match": match, "user": user, "password": user})
        for match, user in {"127.0.0.1": "first", **others}.items()
    )
    live = LiveOptions(open_timeout_s=1, credentials=entries)
    asks = b'RTSP/1.0 401 Unauthorized\r\nCSeq: CSEQ\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'
    with camera({"OPTIONS": asks}) as (port, asked):
        answers: Answers = {"OPTIONS": asks}
        with camera(answers) as (first, asked_first):
            url = f"rtsp://{own}127.0.0.1:{first}/live"
            with pytest.raises(RefusedError, match="authentication failed") as caught:
                RtspStream(url, live, threading.Event())
            answers["OPTIONS"] = moved(f"rtsp://localhost:{port}/other")
            with pytest.raises(RefusedError, match="authentication failed"):
                RtspStream(url, live, threading.Event())
    assert str(caught.value).startswith(f"rtsp://{own and 'own:***@'}127.0.0.1:{first}/live: ")

    def sent(requests: list[ServerRequest]) -> list[str]:
        values = [request.headers.get("authorization") for request in requests]
        return [base64.b64decode(value.removeprefix("Basic ")).decode() for value in values if value]

    assert sent(asked_first) == ["own:own" if own else "first:first"]
    assert sent(asked) == [f"{user}:{user}" for user in others.values()]


@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE"])
def test_ffmpeg_follows_no_redirect_and_so_sends_no_credentials_to_another_host(method: str) -> None:
    entry = CameraCredentials.model_validate({"match": "127.0.0.1", "user": "admin", "password": "secret"})
    live = LiveOptions(open_timeout_s=2, ingest="ffmpeg", credentials=(entry,))
    with camera({"DESCRIBE": SDP}) as (port, asked), camera({method: moved(f"rtsp://localhost:{port}/other")}) as (first, _):
        spec = SourceSpec("door", "live", (f"rtsp://127.0.0.1:{first}/live",), live=live)
        with pytest.raises(RefusedError, match="leads to a protocol or format that is not allowed") as caught:
            open_packets(spec, threading.Event(), SYSTEM_CLOCK, SourceLog("door"))
    assert "secret" not in repr(caught.value)
    assert asked == []


def test_a_redirect_out_of_the_allowed_networks_is_refused() -> None:
    live = LiveOptions(open_timeout_s=1, allow_networks=("127.0.0.1/32",))
    with (
        camera({"DESCRIBE": SDP}) as (port, asked),
        camera({"OPTIONS": moved(f"rtsp://127.0.0.2:{port}/x")}) as (first, _),
        pytest.raises(RefusedError, match="outside the allowed networks"),
    ):
        RtspStream(f"rtsp://127.0.0.1:{first}/live", live, threading.Event())
    assert asked == []


def test_redirects_without_end_are_refused() -> None:
    answers: Answers = {}
    with camera(answers) as (port, asked):
        answers["OPTIONS"] = moved(f"rtsp://127.0.0.1:{port}/again")
        with pytest.raises(RefusedError, match="more than 3 redirects"):
            RtspStream(f"rtsp://127.0.0.1:{port}/live", SHORT, threading.Event())
    assert len(asked) == 3


def test_no_host_of_a_description_is_connected_to() -> None:
    """Content-Base, control URLs and the source of a transport are only text."""
    described = SDP + "a=control:rtsp://203.0.113.9/track1\r\n"
    base = f"RTSP/1.0 200 OK\r\nCSeq: CSEQ\r\nContent-Base: rtsp://203.0.113.9/x/\r\nContent-Length: {len(described)}\r\n\r\n"
    setup = b"RTSP/1.0 200 OK\r\nCSeq: CSEQ\r\nSession: 1\r\nTransport: RTP/AVP/TCP;interleaved=0-1;source=203.0.113.9\r\n\r\n"
    with (
        camera({"DESCRIBE": (base + described).encode(), "SETUP": setup}, packets(1)) as (port, asked),
        RtspStream(f"rtsp://127.0.0.1:{port}/live", SHORT, threading.Event()) as stream,
    ):
        assert next(stream.read()).timed.picture.key
    assert [request.url for request in asked if request.method == "SETUP"] == ["rtsp://203.0.113.9/track1"]


@pytest.mark.parametrize(
    ("sdp", "why"),
    [
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n", "vp8"),
        ("m=audio 0 RTP/AVP 8\r\n", "no video"),
        (SDP + "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 G726-32/8000\r\n", "g726-32"),
        ("m=video 0 RTP/SAVP 96\r\na=rtpmap:96 H264/90000\r\n", "SRTP"),
    ],
)
def test_what_cannot_be_read_over_rtp_is_named(sdp: str, why: str) -> None:
    with camera({"DESCRIBE": sdp}) as (port, _):
        with pytest.raises(UnsupportedByRtpError, match=why) as caught:
            RtspStream(f"rtsp://127.0.0.1:{port}/live", SHORT, threading.Event())
        caught.value.connection.close()


@pytest.mark.parametrize(
    ("after_play", "kind", "text"),
    [
        (b"", StreamError, "no data for 0.5 s"),
        (interleaved_bytes(0, rtp(slice264(1), 1)), StreamError, "packets arrive, but no complete image"),
        (b"\x00" * 200_000, RtspSyntaxError, "rtsp://127.0.0.1:[0-9]+/live: the server sent 131072 bytes that are neither RTSP"),
    ],
    ids=["silent", "unusable", "noise"],
)
def test_a_camera_without_pictures(after_play: bytes, kind: type[StreamError], text: str) -> None:
    with (
        camera({"DESCRIBE": SDP}, after_play) as (port, _),
        pytest.raises(kind, match=text),
        RtspStream(f"rtsp://127.0.0.1:{port}/live", SHORT, threading.Event()) as stream,
    ):
        list(stream.read())


def test_frames_after_a_loss_are_damaged_until_a_key_frame() -> None:
    units = {0: slice264(5), 1: slice264(1), 3: slice264(1), 4: slice264(1), 5: slice264(5), 7: slice264(5)}
    sent = b"".join(interleaved_bytes(0, rtp(unit, at, at * 3000, True)) for at, unit in units.items())
    with camera({"DESCRIBE": SDP}, sent) as (port, _):
        spec = SourceSpec("door", "live", (f"rtsp://127.0.0.1:{port}/live",), live=SHORT)
        reader = RtpPackets(spec, threading.Event(), SYSTEM_CLOCK, failed=lambda reason: None)
        try:
            seen = [(packet.is_keyframe, packet.is_corrupt) for packet, _ in islice(reader.read(), len(units))]
        finally:
            reader.close()
    assert seen == [(True, False), (False, False), (False, True), (False, True), (True, False), (True, False)]


def test_a_source_that_says_goodbye_ends_the_stream() -> None:
    goodbye = interleaved_bytes(1, b"\x81\xcb\0\1" + SSRC.to_bytes(4, "big"))
    with (
        camera({"DESCRIBE": SDP}, packets(2) + goodbye) as (port, _),
        RtspStream(f"rtsp://127.0.0.1:{port}/live", SHORT, threading.Event()) as stream,
    ):
        assert len(list(stream.read())) == 2


def test_a_server_that_does_not_answer_play_is_read() -> None:
    with (
        camera({"DESCRIBE": SDP, "PLAY": packets(1)}, packets(2)) as (port, _),
        RtspStream(f"rtsp://127.0.0.1:{port}/live", SHORT, threading.Event()) as stream,
    ):
        assert next(stream.read()).timed.picture.key


def test_a_camera_over_tls_signs_its_own_certificate(tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=camera"
    chain, key = tmp_path / "camera.pem", tmp_path / "camera.key"
    subprocess.run([*command.split(), "-keyout", key, "-out", chain], check=True, capture_output=True, timeout=30)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain, key)
    with (
        camera({"DESCRIBE": SDP}, packets(500), tls) as (port, asked),
        RtspStream(f"rtsps://127.0.0.1:{port}/live", SHORT, threading.Event()) as stream,
    ):
        assert len(list(islice(stream.read(), 500))) == 500
    assert asked[0].url == f"rtsps://127.0.0.1:{port}/live"


def test_a_server_that_never_plays_is_given_up_in_time() -> None:
    """Packets without a picture do not extend the time that the server has for its answer to PLAY."""
    junk = interleaved_bytes(0, rtp(slice264(1)[:1], 1)) + interleaved_bytes(1, b"")
    began = time.monotonic()
    with (
        camera({"DESCRIBE": SDP, "PLAY": junk}) as (port, _),
        pytest.raises(StreamError, match="no answer within 1 s"),
    ):
        RtspStream(f"rtsp://127.0.0.1:{port}/live", SHORT, threading.Event())
    assert time.monotonic() - began < 5, "expected: 1 s"


def test_a_server_that_refuses_udp_is_read_over_tcp(caplog: pytest.LogCaptureFixture) -> None:
    live = replace(SHORT, transport="udp")
    refused = b"RTSP/1.0 461 Unsupported Transport\r\nCSeq: CSEQ\r\n\r\n"

    def set_up(request: ServerRequest) -> bytes | str:
        return "" if "interleaved" in (request.headers.get("transport") or "") else refused

    with (
        camera({"DESCRIBE": SDP, "SETUP": set_up}, packets(3)) as (port, _),
        RtspStream(f"rtsp://admin:secret@127.0.0.1:{port}/live", live, threading.Event()) as stream,
    ):
        assert len(list(islice(stream.read(), 3))) == 3
    assert "TCP is used" in caplog.text
    assert "secret" not in caplog.text


def test_no_packet_over_udp_is_explained() -> None:
    setup = b"RTSP/1.0 200 OK\r\nCSeq: CSEQ\r\nSession: 1\r\nTransport: RTP/AVP;unicast;server_port=65000-99999\r\n\r\n"
    with (
        camera({"DESCRIBE": SDP, "SETUP": setup}) as (port, _),
        RtspStream(f"rtsp://127.0.0.1:{port}/live", replace(SHORT, transport="udp"), threading.Event()) as stream,
        pytest.raises(StreamError, match="no data") as caught,
    ):
        list(stream.read())
    assert "transport: tcp" in caught.value.hint


def test_the_end_of_a_stream_is_not_delayed_by_a_server_that_reads_nothing() -> None:
    ended = threading.Event()
    answers: Answers = {"DESCRIBE": SDP, "GET_PARAMETER": lambda request: str(ended.wait(20))}
    with (
        camera(answers, packets(1)) as (port, _),
        RtspStream(f"rtsp://127.0.0.1:{port}/live", SHORT, threading.Event()) as stream,
    ):
        next(stream.read())

        def fill() -> None:
            while True:
                stream._unsent += request_bytes("GET_PARAMETER", "*", [("X", "x" * 30_000)])
                stream._send()

        with pytest.raises(StreamError, match="reads no requests"):
            fill()
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < 0.5
        ended.set()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_connections_leave_no_socket_behind() -> None:
    refused = b"RTSP/1.0 404 Not Found\r\nCSeq: CSEQ\r\n\r\n"
    with camera({"DESCRIBE": SDP}, packets(1)) as (port, _), camera({"DESCRIBE": refused}) as (missing, _):
        before = descriptors()
        for transport in ("tcp", "udp"):
            live = replace(SHORT, transport=transport, stall_timeout_s=0.01)
            for _ in range(25):
                with RtspStream(f"rtsp://127.0.0.1:{port}/live", live, threading.Event()) as stream:
                    assert transport == "udp" or next(stream.read())
                with pytest.raises(RefusedError):
                    RtspStream(f"rtsp://127.0.0.1:{missing}/live", live, threading.Event())
        wait_until(lambda: descriptors() <= before, lambda: f"{descriptors()} instead of {before} descriptors", 5)


def test_a_closed_port_and_an_unknown_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StreamError, match="connection refused"):
        RtspStream(f"rtsp://127.0.0.1:{port}/", SHORT, threading.Event())
    with pytest.raises(StreamError, match="cannot be resolved"):
        RtspStream("rtsp://camera.invalid/", SHORT, threading.Event())
