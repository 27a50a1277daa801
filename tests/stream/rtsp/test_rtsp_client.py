"""The dialog with an RTSP server, with answers as cameras give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.rtsp.client import RtspClient
from vision_infer.stream.rtsp.client_events import ClientEvent, PlayBegun, Redirected, ServerEnded
from vision_infer.stream.rtsp.description import DescriptionError, MediaSection, SessionDescription
from vision_infer.stream.rtsp.message import (
    InterleavedPacket,
    MessageReader,
    RtspSyntaxError,
    ServerRequest,
    interleaved_bytes,
    request_bytes,
)
from vision_infer.stream.rtsp.refusal import TransportRefusedError

SECOND = 1_000_000_000
URL = "rtsp://192.0.2.1/live"
SDP = (
    "v=0\r\ns=a\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:trackID=1\r\n"
    "m=audio 0 RTP/AVP 8\r\na=control:trackID=2\r\n"
)


def everything(description: SessionDescription) -> Sequence[MediaSection]:
    return description.media


class Server:
    """Answers the requests of a client.

    Args:
        url: The URL that the client plays.
        udp_ports: The client's ports.
        choose: Returns the streams to play.
        other: Prepares the other transport.
    """

    def __init__(
        self,
        url: str = URL,
        udp_ports: Sequence[int] | None = None,
        choose: Callable[[SessionDescription], Sequence[MediaSection]] = everything,
        other: Callable[[], Sequence[int] | None] | None = None,
    ) -> None:
        numbers = count()
        self.client = RtspClient(url, choose, lambda: f"{next(numbers):08x}", udp_ports, other=other)
        self.reader = MessageReader()
        self.now_ns = 0
        self.client.start(0)

    def asked(self, method: str) -> ServerRequest:
        """Return the next request."""
        (request,) = self.reader.push(self.client.to_send())
        assert isinstance(request, ServerRequest)
        assert request.method == method
        return request

    def answer(self, request: ServerRequest | None, *headers: str, status: str = "200 OK", body: str = "") -> list[ClientEvent]:
        """Answer a request; None for an answer without a number."""
        lines = [f"RTSP/1.0 {status}", *headers]
        if request is not None:
            lines.append(f"CSeq: {request.cseq}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return self.client.receive("\r\n".join([*lines, "", body]).encode(), self.now_ns)

    def described(self, sdp: str = SDP, *headers: str) -> None:
        """Answer the requests up to DESCRIBE."""
        assert self.answer(self.asked("OPTIONS"), "Public: OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER") == []
        assert self.answer(self.asked("DESCRIBE"), *headers, body=sdp) == []

    def playing(self, session: str = "Session: 42;timeout=30") -> ServerRequest:
        """Answer all requests up to PLAY, which is returned."""
        self.described()
        self.answer(self.asked("SETUP"), session, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
        self.answer(self.asked("SETUP"), session, "Transport: RTP/AVP/TCP;unicast;interleaved=2-3")
        play = self.asked("PLAY")
        assert self.answer(play, "RTP-Info: url=x;seq=0;rtptime=0;") == [PlayBegun()]
        return play


def test_a_stream_with_sound_is_played_and_ended() -> None:
    server = Server()
    server.described(SDP, "Content-Base: rtsp://192.0.2.1/live/", "Content-Type: application/sdp;charset=utf-8")
    first = server.asked("SETUP")
    assert (first.url, first.headers.get("transport")) == (
        "rtsp://192.0.2.1/live/trackID=1",
        "RTP/AVP/TCP;unicast;interleaved=0-1",
    )
    server.answer(first, "Session: 42 ; timeout=30", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
    second = server.asked("SETUP")
    assert (second.url, second.headers.get("session")) == ("rtsp://192.0.2.1/live/trackID=2", "42")
    server.answer(second, "Session: 42", "Transport: RTP/AVP/TCP;unicast;interleaved=2-3")
    play = server.asked("PLAY")
    assert (play.url, play.headers.get("session"), play.headers.get("range")) == ("rtsp://192.0.2.1/live/", "42", "npt=0.000-")
    assert server.answer(play) == [PlayBegun()]
    assert server.client.receive(interleaved_bytes(0, b"a") + interleaved_bytes(3, b"b") + interleaved_bytes(9, b"c"), 0) == [
        InterleavedPacket(0, b"a"),
        InterleavedPacket(3, b"b"),
    ]
    server.client.send_rtcp(1, b"report")
    assert server.client.to_send() == interleaved_bytes(3, b"report")
    server.client.teardown(0)
    assert server.asked("TEARDOWN").headers.get("session") == "42"


def test_packets_before_the_answer_to_play_are_passed_on() -> None:
    server = Server()
    server.described()
    server.answer(server.asked("SETUP"), "Session: 1", "Transport: RTP/AVP/TCP;interleaved=0-1")
    assert server.client.receive(interleaved_bytes(0, b"early"), 0) == [InterleavedPacket(0, b"early")]


@pytest.mark.parametrize(
    ("transport", "channel"),
    [
        # https://github.com/AlexxIT/go2rtc/blob/master/pkg/rtsp/client.go lists these answers.
        ("RTP/AVP/TCP;unicast;interleaved=10-11;ssrc=10117CB7", 10),
        ("RTP/AVP/TCP;unicast;destination=192.168.1.111;source=192.168.1.222;interleaved=0", 0),
        ("RTP/AVP;unicast;destination=192.168.1.111;source=192.168.1.222;interleaved=0-1", 0),
        # https://github.com/scottlamb/retina/issues/120
        ("RTP/AVP/TCP;ssrc=22345684;interleaved=4-5", 4),
        ("", 0),
    ],
)
def test_the_channels_that_the_server_chooses_are_used(transport: str, channel: int) -> None:
    server = Server(choose=lambda description: description.media[:1])
    server.described()
    server.answer(server.asked("SETUP"), "Session: 1", *([f"Transport: {transport}"] if transport else []))
    assert server.client.receive(interleaved_bytes(channel + 1, b"a"), 0) == [InterleavedPacket(1, b"a")]
    server.client.send_rtcp(0, b"b")
    assert server.client.to_send().endswith(interleaved_bytes(channel + 1, b"b"))


def test_one_channel_for_two_streams_is_refused() -> None:
    server = Server()
    server.described()
    server.answer(server.asked("SETUP"), "Session: 1", "Transport: RTP/AVP/TCP;interleaved=0-1")
    with pytest.raises(RtspSyntaxError, match="channel 1"):
        server.answer(server.asked("SETUP"), "Session: 1", "Transport: RTP/AVP/TCP;interleaved=1-2")


def test_a_password_is_sent_only_when_it_is_requested_and_never_in_a_url() -> None:
    server = Server("rtsp://admin:secret@192.0.2.1/live")
    options = server.asked("OPTIONS")
    assert options.url == URL
    assert options.headers.get("authorization") is None
    server.answer(options, status="200 OK")
    describe = server.asked("DESCRIBE")
    challenge = ('WWW-Authenticate: Basic realm="a"', 'WWW-Authenticate: Digest realm="a", nonce="1"')
    server.answer(describe, *challenge, status="401 Unauthorized")
    again = server.asked("DESCRIBE")
    assert (again.headers.get("authorization") or "").startswith('Digest username="admin", realm="a", nonce="1"')
    with pytest.raises(RefusedError, match=r"authentication failed \(401\)") as caught:
        server.answer(again, *challenge, status="401 Unauthorized")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(vars(server.client))


def test_a_stale_nonce_is_replaced_but_not_for_ever() -> None:
    server = Server("rtsp://admin:secret@192.0.2.1/live")
    for number in range(2):
        stale = f'WWW-Authenticate: Digest realm="a", nonce="{number}", qop="auth", stale=true'
        server.answer(server.asked("OPTIONS"), stale, status="401 Unauthorized")
    with pytest.raises(RefusedError, match="401"):
        server.answer(server.asked("OPTIONS"), stale, status="401 Unauthorized")


def test_a_camera_without_a_password_in_the_url() -> None:
    server = Server()
    with pytest.raises(RefusedError, match="Check the user name and password"):
        server.answer(server.asked("OPTIONS"), 'WWW-Authenticate: Basic realm="a"', status="401 Unauthorized")


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        ("404 Not Found", RefusedError, "no such stream"),
        ("403 Forbidden", RefusedError, r"authentication failed \(403\)"),
        ("503 Service Unavailable", StreamError, "DESCRIBE returned 503"),
        ("461 Unsupported Transport", TransportRefusedError, "over TCP"),
        ("459 rtsp://a:secret@b", RefusedError, r"rejected DESCRIBE: 459 rtsp://a:\*\*\*@b"),
    ],
)
def test_a_refusal_is_explained(status: str, kind: type[StreamError], text: str) -> None:
    server = Server("rtsp://admin:secret@192.0.2.1/live")
    server.answer(server.asked("OPTIONS"), status="405 Method Not Allowed")
    with pytest.raises(kind, match=text) as caught:
        server.answer(server.asked("DESCRIBE"), status=status)
    assert "secret" not in str(caught.value)


def test_a_redirect_is_reported_and_not_followed() -> None:
    server = Server()
    server.answer(server.asked("OPTIONS"))
    describe = server.asked("DESCRIBE")
    location = "Location: rtsp://admin:secret@198.51.100.7:8554/other"
    assert server.answer(describe, location, status="302 Found") == [Redirected("rtsp://198.51.100.7:8554/other")]
    assert server.client.to_send() == b""
    for wrong in (
        "http://198.51.100.7/",
        "file:///etc/passwd",
        "rtsp://",
        "/other",
        "rtsp://[::1/",
        "rtsp://a:99999/",
        "rtsp://a:0/",
    ):
        server = Server()
        with pytest.raises(RefusedError, match="redirects"):
            server.answer(server.asked("OPTIONS"), f"Location: {wrong}", status="301 Moved")


def test_the_session_is_kept_alive_at_half_of_its_timeout() -> None:
    server = Server()
    server.playing()
    client = server.client
    assert client.deadline_ns == 15 * SECOND
    client.tick(14 * SECOND)
    assert client.to_send() == b""
    client.tick(15 * SECOND)
    alive = server.asked("GET_PARAMETER")
    assert (alive.url, alive.headers.get("session")) == (URL, "42")
    server.answer(alive, status="451 Parameter Not Understood")
    assert client.deadline_ns == 30 * SECOND
    client.tick(30 * SECOND)
    server.asked("OPTIONS")
    client.tick(45 * SECOND)  # no answer: packets show whether the server is there
    server.asked("OPTIONS")


@pytest.mark.parametrize("public", ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN", "Server: no list of methods"])
def test_a_server_without_get_parameter_is_kept_alive_by_options(public: str) -> None:
    server = Server(choose=lambda description: description.media[:1])
    server.answer(server.asked("OPTIONS"), public)
    server.answer(server.asked("DESCRIBE"), body=SDP)
    server.answer(server.asked("SETUP"), "Session: 1;timeout=0")
    server.answer(server.asked("PLAY"))
    assert server.client.deadline_ns == 30 * SECOND
    server.client.tick(30 * SECOND)
    server.asked("OPTIONS")


def test_a_keep_alive_that_is_rejected_with_another_number() -> None:
    # Tapo C220: https://github.com/scottlamb/retina/issues/136
    server = Server()
    server.playing()
    server.client.tick(15 * SECOND)
    request = server.asked("GET_PARAMETER")
    assert request.cseq is not None
    rejected = f"RTSP/1.0 400 Bad Request\r\nCSeq: {request.cseq - 1}\r\n\r\n"
    assert server.client.receive(rejected.encode(), 15 * SECOND) == []
    server.client.tick(30 * SECOND)
    server.asked("OPTIONS")


def test_an_empty_continuation_does_not_end_the_headers() -> None:
    # Luma x20: https://github.com/koush/scrypted/pull/2137
    server = Server(choose=lambda description: description.media[:1])
    server.described()
    server.answer(server.asked("SETUP"), "Session: 821724453759789", " ", "Transport: RTP/AVP/TCP;interleaved=0-1")
    play = server.asked("PLAY")
    assert play.headers.get("session") == "821724453759789"
    assert server.answer(play, "Session: 821724453759789", " ", "RTP-Info: url=rtsp://admin:x@203.0.113.9/;seq=1") == [
        PlayBegun()
    ]
    assert server.client.to_send() == b""


def test_bytes_between_packets_are_skipped_once_the_stream_is_set_up() -> None:
    # Canon VB-H47: https://github.com/bluenviron/gortsplib/pull/653
    server = Server()
    server.playing()
    rtp = b"\x80\x60" + bytes(20)
    sent = (
        interleaved_bytes(0, rtp)
        + b"\x00\x17$\x09\x00\x04\x80junk"
        + interleaved_bytes(0, rtp)
        + b"RTSP/1.0 200 OK\r\nCSeq: 99\r\n\r\n"
    )
    assert server.client.receive(sent, 0) == [InterleavedPacket(0, rtp)] * 2
    with pytest.raises(RtspSyntaxError, match="neither RTSP nor packets"):
        server.client.receive(bytes(200_000), 0)
    early = Server()
    with pytest.raises(RtspSyntaxError, match="not RTSP"):
        early.client.receive(b"\x00\x17junk", 0)


def test_a_nonce_that_expires_while_the_stream_plays_is_replaced() -> None:
    server = Server("rtsp://admin:secret@192.0.2.1/live")
    server.playing()
    server.client.tick(15 * SECOND)
    server.answer(server.asked("GET_PARAMETER"), 'WWW-Authenticate: Digest realm="a", nonce="7"', status="401 Unauthorized")
    again = server.asked("GET_PARAMETER")
    assert 'nonce="7"' in (again.headers.get("authorization") or "")
    server.answer(again, 'WWW-Authenticate: Digest realm="a", nonce="8"', status="401 Unauthorized")


def test_a_server_that_does_not_answer_is_noticed() -> None:
    client = Server().client
    assert client.deadline_ns == 10 * SECOND
    client.tick(9 * SECOND)
    with pytest.raises(StreamError, match="no answer within 10 s"):
        client.tick(10 * SECOND)


def test_packets_count_as_the_answer_to_play() -> None:
    server = Server(choose=lambda description: description.media[:1])
    server.described()
    server.answer(server.asked("SETUP"), "Session: 1;timeout=30")
    server.asked("PLAY")
    server.client.receive(interleaved_bytes(0, b"a"), 0)
    server.client.tick(10 * SECOND)
    assert server.client.deadline_ns == 25 * SECOND


def test_answers_without_a_number_or_repeated_ones() -> None:
    server = Server(choose=lambda description: description.media[:1])
    options = server.asked("OPTIONS")
    server.answer(None)
    describe = server.asked("DESCRIBE")
    assert server.answer(options, status="500 Repeated") == []
    assert server.answer(describe, status="100 Continue") == []
    server.answer(None, body=SDP)
    server.answer(server.asked("SETUP"), "CSeq: 4711", "Session: 1")
    server.asked("PLAY")


def test_cameras_that_change_the_session_expect_the_first_one() -> None:
    # https://github.com/scottlamb/retina/blob/main/CHANGELOG.md
    server = Server()
    server.described()
    server.answer(server.asked("SETUP"), "Session: first", "Transport: RTP/AVP/TCP;interleaved=0-1")
    server.answer(server.asked("SETUP"), "Session: second", "Transport: RTP/AVP/TCP;interleaved=2-3")
    assert server.asked("PLAY").headers.get("session") == "first"


def test_requests_of_the_server_are_answered() -> None:
    server = Server()
    server.playing()
    client = server.client
    assert client.receive(request_bytes("OPTIONS", "*", [("CSeq", "9")]), 0) == []
    assert client.to_send().startswith(b"RTSP/1.0 200 OK\r\nCSeq: 9\r\nPublic: ")
    client.receive(request_bytes("ANNOUNCE", URL, [("CSeq", "10")]), 0)
    assert client.to_send().startswith(b"RTSP/1.0 501 ")
    asked = request_bytes("REDIRECT", URL, [("CSeq", "11"), ("Location", "rtsps://198.51.100.7/")])
    assert client.receive(asked, 0) == [Redirected("rtsps://198.51.100.7/")]
    assert client.receive(request_bytes("TEARDOWN", URL, []), 0) == [ServerEnded()]
    with pytest.raises(RtspSyntaxError, match="reads no answers"):
        client.receive(request_bytes("OPTIONS", "*", []) * 2000, 0)


def test_udp_ports_are_negotiated() -> None:
    server = Server(udp_ports=[5000, 5002])
    server.described()
    first = server.asked("SETUP")
    assert first.headers.get("transport") == "RTP/AVP;unicast;client_port=5000-5001"
    server.answer(first, "Session: 1", "Transport: RTP/AVP/UDP;unicast;client_port=5000-5001;server_port=43670-43671;ssrc=7C")
    second = server.asked("SETUP")
    assert server.client.tracks[0].server_ports == (43670, 43671)
    server.answer(second, "Session: 1", "Transport: RTP/AVP/UDP;unicast;client_port=5002-5003;server_port=65535")
    assert server.client.tracks[1].server_ports is None
    server.asked("PLAY")


def test_a_server_that_refuses_udp_for_the_second_stream() -> None:
    server = Server(udp_ports=[5000, 5002], other=lambda: pytest.fail("the first stream uses UDP"))
    server.described()
    server.answer(server.asked("SETUP"), "Session: 1", "Transport: RTP/AVP;unicast;client_port=5000-5001;server_port=43670-43671")
    second = server.asked("SETUP")
    with pytest.raises(TransportRefusedError, match="over UDP"):
        server.answer(second, status="461 Unsupported Transport")
    assert [track.server_ports for track in server.client.tracks] == [(43670, 43671), None]


@pytest.mark.parametrize("udp", [False, True])
def test_the_other_transport_is_used_if_the_server_refuses_one(udp: bool) -> None:
    # As in https://github.com/bluenviron/gortsplib/blob/main/client.go
    tcp, ports = "RTP/AVP/TCP;unicast;interleaved=0-1", "RTP/AVP;unicast;client_port=5000-5001"
    server = Server(udp_ports=[5000] if udp else None, other=lambda: None if udp else [5000])
    server.described()
    first = server.asked("SETUP")
    assert first.headers.get("transport") == (ports if udp else tcp)
    server.answer(first, status="461 Unsupported Transport")
    again = server.asked("SETUP")
    assert (again.url, again.headers.get("transport")) == (first.url, tcp if udp else ports)
    with pytest.raises(TransportRefusedError, match=r"neither TCP nor UDP \(461\)"):
        server.answer(again, status="461 Unsupported Transport")


def test_a_server_that_answers_with_udp_is_refused_over_tcp() -> None:
    server = Server()
    server.described()
    with pytest.raises(TransportRefusedError, match="over TCP"):
        server.answer(server.asked("SETUP"), "Session: 1", "Transport: RTP/AVP;unicast;client_port=1-2;server_port=3-4")


def test_a_description_that_cannot_be_used() -> None:
    for headers, body in (((), ""), (("Content-Type: text/html",), "<html>")):
        server = Server()
        server.answer(server.asked("OPTIONS"))
        with pytest.raises(DescriptionError):
            server.answer(server.asked("DESCRIBE"), *headers, body=body)
    with pytest.raises(DescriptionError, match="no stream to play"):
        Server(choose=lambda description: []).described()


HEADERS = [
    "Session: ;timeout=x",
    "Transport: interleaved=999",
    "Transport: interleaved=254-255",
    "Transport: server_port=99999",
    "Location: rtsp://a",
    'WWW-Authenticate: Digest nonce="1", realm',
    "Public: ,",
    "Content-Base: rtsp://",
    "CSeq: 99999999999",
]


@given(st.lists(st.sampled_from([200, 301, 401, 404, 100, 0]), max_size=12), st.lists(st.sampled_from(HEADERS), max_size=4))
@settings(max_examples=150)
def test_any_answers_lead_to_events_or_errors(statuses: list[int], headers: list[str]) -> None:
    server = Server("rtsp://admin:secret@192.0.2.1/live")
    problem = ""
    for status in statuses:
        try:
            if status:
                server.answer(None, *headers, status=f"{status} x", body=SDP if status == 200 else "")
            else:
                server.client.receive(interleaved_bytes(1, b"x"), 0)
        except StreamError as error:
            problem = str(error)
            break
        server.client.to_send()
    assert "secret" not in problem
