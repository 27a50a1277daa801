"""RTSP messages and interleaved packets are read from a stream of bytes."""

from __future__ import annotations

import contextlib
import itertools
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vision_infer.stream.rtsp.message import (
    MAX_BODY,
    MAX_HEAD,
    MAX_SKIPPED,
    InterleavedPacket,
    MessageReader,
    RtspAnswer,
    RtspEvent,
    RtspSyntaxError,
    ServerRequest,
    answer_bytes,
    interleaved_bytes,
    request_bytes,
)

OK = b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nContent-Length: 5\r\n\r\nv=0\r\n"
STREAM = (
    interleaved_bytes(0, b"")
    + OK
    + interleaved_bytes(1, b"\r\n\r\n$RTSP/1.0")
    + request_bytes("OPTIONS", "rtsp://camera/", [("CSeq", "1")])
    + b"\r\n"
    + interleaved_bytes(2, bytes(range(256)) * 255)
    + b"RTSP/1.0 404 Not Found\nCSeq: 4\n\n"
)


def read(*chunks: bytes) -> list[RtspEvent]:
    reader = MessageReader()
    return [event for chunk in chunks for event in reader.push(chunk)]


def size_of(events: list[RtspEvent]) -> int:
    """Return the number of bytes in packets and bodies: no byte is read twice."""
    return sum(len(event.data if isinstance(event, InterleavedPacket) else event.body) for event in events)


def answer(data: bytes) -> RtspAnswer:
    (event,) = read(data)
    assert isinstance(event, RtspAnswer)
    return event


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_the_division_into_chunks_does_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    assert read(*(STREAM[a:b] for a, b in itertools.pairwise(places))) == read(STREAM)


def test_single_bytes_give_the_same_events() -> None:
    events = read(*(STREAM[at : at + 1] for at in range(len(STREAM))))
    assert events == read(STREAM)
    assert [type(event) for event in events] == [
        InterleavedPacket, RtspAnswer, InterleavedPacket, ServerRequest, InterleavedPacket, RtspAnswer,
    ]  # fmt: skip


def test_what_cameras_write_differently_is_understood() -> None:
    # A space after the number: https://github.com/scottlamb/retina/pull/77
    assert answer(b"RTSP/1.0 401 Unauthorized\r\nCSeq: 1 \r\n\r\n").cseq == 1
    # Cseq, seen with H264DVR 1.0: https://github.com/scottlamb/retina/tree/main/src/client/testdata
    assert answer(b"\r\n\r\nRTSP/1.0 200 OK\nCseq:7\n\n").cseq == 7
    assert answer(b"RTSP/1.0 200\r\n\r\n").cseq is None
    assert answer(b"rtsp/1.0  454  Session Not Found\r\ncseq: none\r\n\r\n").status == 454
    folded = answer(b"RTSP/1.0 200 OK\r\nPublic: OPTIONS,\r\n PLAY\r\nno colon\r\nX: \xff\r\n\r\n")
    assert folded.headers.get("public") == "OPTIONS, PLAY"
    assert len(folded.headers.items) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"RTSP/1.0 abc\r\n\r\n",
        b"\x00\x01\x02" * 10,
        b"RTSP/1.0 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1),
        b"RTSP/1.0 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"RTSP/1.0 200 OK\r\nA: " + b"b" * MAX_HEAD,
        b"RTSP/1.0 200 OK\r\nA: " + b"b" * MAX_HEAD + b"\r\n\r\n",
    ],
)
def test_what_is_not_rtsp_or_exceeds_a_limit_is_refused(data: bytes) -> None:
    with pytest.raises(RtspSyntaxError):
        read(data)


@pytest.mark.parametrize("text", ["a\r\nEvil: b", "a\nb", "a\0b", "a\rb"])
def test_no_header_is_written_with_a_control_character(text: str) -> None:
    with pytest.raises(RtspSyntaxError, match="control character"):
        request_bytes("SETUP", "rtsp://camera/", [("Session", text)])
    with pytest.raises(RtspSyntaxError, match="control character"):
        request_bytes("SETUP", f"rtsp://camera/{text}", [])
    with pytest.raises(RtspSyntaxError, match="control character"):
        answer_bytes(200, "OK", [("CSeq", text)])


RTP = b"\x80\x60\x00\x01" + bytes(8)


def resynced(*chunks: bytes) -> list[RtspEvent]:
    reader = MessageReader()
    reader.channels = frozenset({0, 1})
    return [event for chunk in chunks for event in reader.push(chunk)]


@pytest.mark.parametrize("junk", [b"\x00", b"\xff" * 3000, b"\x00$\x07\x00\x0c\x80$$", b"\x80\x60" + bytes(1400), b"1\x00RTSP"])
@given(st.lists(st.integers(0, 3000), max_size=6))
@example([27])  # the last bytes that are known begin as a packet
@settings(max_examples=20)
def test_junk_between_packets_is_skipped_however_it_is_divided(junk: bytes, cuts: list[int]) -> None:
    # https://github.com/bluenviron/gortsplib/pull/653
    sent = interleaved_bytes(0, RTP) + junk + interleaved_bytes(1, RTP) + junk + OK + interleaved_bytes(0, RTP)
    places = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    events = resynced(*(sent[a:b] for a, b in itertools.pairwise(places)))
    expected = [InterleavedPacket(0, RTP), InterleavedPacket(1, RTP), answer(OK), InterleavedPacket(0, RTP)]
    assert events == expected


def test_the_bytes_that_are_skipped_are_limited() -> None:
    with pytest.raises(RtspSyntaxError, match="neither RTSP nor packets"):
        resynced(*[bytes(1000)] * (MAX_SKIPPED // 1000 + 2))
    assert len(resynced(*[bytes(1000) + interleaved_bytes(0, RTP)] * 500)) == 500


def test_packets_between_the_lines_of_a_message_are_read() -> None:
    # FFmpeg accepts them as well: https://github.com/FFmpeg/FFmpeg/blob/master/libavformat/rtsp.c
    packet = interleaved_bytes(0, RTP + b"\r\n\r\n")
    head, rest = OK[: OK.index(b"Content")], OK[OK.index(b"Content") :]
    sent = head + packet + packet + rest
    for chunks in ([sent], [sent[at : at + 1] for at in range(len(sent))]):
        assert read(*chunks) == [InterleavedPacket(0, RTP + b"\r\n\r\n")] * 2 + [answer(OK)]
    with pytest.raises(RtspSyntaxError, match="within the headers"):
        read(head + interleaved_bytes(0, b"") * 1000)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_bytes_are_skipped_in_bounded_memory(chunks: list[bytes]) -> None:
    reader = MessageReader()
    reader.channels = frozenset({0, 1})
    with contextlib.suppress(RtspSyntaxError):
        for chunk in chunks:
            reader.push(chunk)
            assert reader._size <= MAX_HEAD + MAX_BODY + 65_540


def test_a_head_in_single_bytes_takes_bounded_time() -> None:
    began = time.process_time()
    reader = MessageReader()
    with contextlib.suppress(RtspSyntaxError):
        for _ in range(MAX_HEAD):
            reader.push(b"A")
    assert time.process_time() - began < 5, "expected: below 1 s"


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_bytes_are_read_or_refused(chunks: list[bytes]) -> None:
    with contextlib.suppress(RtspSyntaxError):
        assert size_of(read(*chunks)) <= sum(map(len, chunks))


@given(st.data())
def test_a_damaged_stream_is_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(STREAM[:600])
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    with contextlib.suppress(RtspSyntaxError):
        assert size_of(read(bytes(damaged[:cut]), bytes(damaged[cut:]))) <= len(damaged)
