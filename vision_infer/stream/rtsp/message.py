"""RTSP 1.0 messages (RFC 2326) and interleaved packets (section 10.12) in a stream of bytes.

The reader accepts what cameras get wrong without harm: a line end without CR, any case of header names, spaces around values, a
missing reason, empty lines between messages, packets between the lines of a message. It refuses what makes the next message
ambiguous: a length that is not a number, two different lengths, a first line that is neither a message nor a packet. Once packets
are expected, it skips what is between them up to the next packet or response.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vision_infer.core.errors import StreamError

MAX_HEAD = 32_768
"""The maximum size of the first line and the headers of a message, bytes."""
MAX_HEADERS = 128
"""The maximum number of headers of a message."""
MAX_BODY = 262_144
"""The maximum size of a message's body, bytes."""
MAX_SKIPPED = 131_072
"""The maximum number of consecutive bytes that are skipped: a packet of the maximum size whose header is missing, twice."""
_MAX_INNER = 64
"""The maximum number of packets between the lines of a message."""
_DOLLAR = 0x24
_FRAME_HEAD = 4
_LINE_ENDS = b"\r\n"
_HEAD_END = re.compile(rb"\r?\n(?:\r?\n|(?=(\$)))")
_STATUS_LINE = re.compile(r"RTSP/\d\.\d +(\d{3})(?: +(.*))?", re.IGNORECASE)
_REQUEST_LINE = re.compile(r"([A-Z_]{3,20}) +(\S+) +RTSP/\d\.\d", re.IGNORECASE)
_STARTS = re.compile(rb"(?i)[a-z_]{3,20}[ /]|[a-z_]{1,20}\Z")
_NEXT = re.compile(rb"(?s)RTSP/\d\.\d \d|(?=\$(.)..[\x80-\xbf])")
"""A response, or a packet of version 2 of RTP or RTCP."""
_NEXT_SIZE = 10
"""The number of bytes that are compared with it."""
_DIGITS = re.compile(r"\d{1,9}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class RtspSyntaxError(StreamError):
    """A server sent bytes that are neither an RTSP message nor an interleaved packet, or more than the limits allow."""


class InterleavedPacket(NamedTuple):
    """A packet of RTP or RTCP on the RTSP connection."""

    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RtspHeaders:
    """The headers of a message, in order. Names are lower case."""

    items: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str | None:
        """Return the first value of a header, or None. The name is given in lower case."""
        return next((value for key, value in self.items if key == name), None)

    def all(self, name: str) -> list[str]:
        """Return all values of a header. The name is given in lower case."""
        return [value for key, value in self.items if key == name]


@dataclass(frozen=True, slots=True)
class RtspAnswer:
    """A response of the server."""

    status: int
    """The status code, 100–999."""
    reason: str
    headers: RtspHeaders
    body: bytes = field(default=b"", repr=False)

    @property
    def cseq(self) -> int | None:
        """The number of the request that is answered; None if the server did not return it."""
        return _cseq(self.headers)


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request that the server sent."""

    method: str
    """The method, upper case."""
    url: str
    headers: RtspHeaders
    body: bytes = field(default=b"", repr=False)

    @property
    def cseq(self) -> int | None:
        """The number of the request; None if the server sent none."""
        return _cseq(self.headers)


RtspEvent = InterleavedPacket | RtspAnswer | ServerRequest


class MessageReader:
    """Splits the bytes of a connection into messages and interleaved packets, however they are divided into chunks."""

    def __init__(self) -> None:
        self.channels: Container[int] = ()
        """The channels on which packets are expected; none means that nothing is skipped."""
        self._chunks: list[bytes] = []
        self._size = 0
        self._need = 1
        """The number of bytes without which the next message or packet cannot be complete."""
        self._skipped = 0
        self._skipping = False
        """Whether the next message or packet has still to be found."""

    def push(self, chunk: bytes) -> list[RtspEvent]:
        """Add bytes. Returns the messages and packets that are now complete.

        Raises:
            RtspSyntaxError: The bytes are not RTSP. The connection must be closed.
        """
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size < self._need:
            return []
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        events: list[RtspEvent] = []
        at, end = 0, len(data)
        self._need = 1
        while at < end:
            first = data[at]
            if self._skipping:
                at, self._skipping = self._skip(data, at)
                if self._skipping:
                    break
                continue
            if first == _DOLLAR:
                after = self._packet(data, at, events)
            elif first in _LINE_ENDS:
                after = at + 1
            elif _STARTS.match(data, at):
                data = self._without_packets(data, at, events)
                end = len(data)
                after = self._message(data, at, events)
            else:
                self._skipping = True
                continue
            if not after:
                break
            at = after
        if events:
            self._skipped = 0
        rest = data[at:] if at else data
        self._chunks, self._size = [rest] if rest else [], len(rest)
        return events

    def _packet(self, data: bytes, at: int, events: list[RtspEvent]) -> int:
        """Read a packet. Returns as :meth:`_message` does."""
        available = len(data) - at
        size = _FRAME_HEAD + (data[at + 2] << 8 | data[at + 3]) if available >= _FRAME_HEAD else _FRAME_HEAD
        if available < size:
            self._need = size
            return 0
        events.append(InterleavedPacket(data[at + 1], data[at + _FRAME_HEAD : at + size]))
        return at + size

    def _without_packets(self, data: bytes, at: int, events: list[RtspEvent]) -> bytes:
        """Take out the packets between the lines of a message, which FFmpeg accepts as well.

        See ``ff_rtsp_read_reply`` in https://github.com/FFmpeg/FFmpeg/blob/master/libavformat/rtsp.c.
        """
        for _ in range(_MAX_INNER):
            found = _HEAD_END.search(data, at, at + MAX_HEAD)
            after = self._packet(data, found.end(), events) if found and found[1] else 0
            if not found or not after:
                return data
            data = data[: found.end()] + data[after:]
        raise RtspSyntaxError(f"the server sent more than {_MAX_INNER} packets within the headers of a message")

    def _message(self, data: bytes, at: int, events: list[RtspEvent]) -> int:
        """Read a message. Returns the position after it; 0 if it is incomplete, with the number of bytes that it needs noted."""
        found = _HEAD_END.search(data, at, at + MAX_HEAD)
        if found is None or found[1]:
            available = len(data) - at
            if available >= MAX_HEAD and found is None:
                raise RtspSyntaxError(f"the server sent RTSP headers of more than {MAX_HEAD} bytes")
            self._need = available + 1
            return 0
        first, headers = _head(data[at : found.start()])
        after = found.end() + _body_length(headers)
        if after > len(data):
            self._need = after - at
            return 0
        events.append(_event(first, headers, data[found.end() : after]))
        return after

    def _skip(self, data: bytes, at: int) -> tuple[int, bool]:
        """Skip what is neither a packet nor a message. Returns the position after it, and whether more may have to be skipped.

        One camera sends other bytes between packets (https://github.com/bluenviron/gortsplib/pull/653), old versions of live555
        send only a part of a packet (https://github.com/scottlamb/retina/issues/17).
        """
        if not self.channels:
            raise RtspSyntaxError("the server sent bytes that are not RTSP")
        starts = (found.start() for found in _NEXT.finditer(data, at) if not found[1] or found[1][0] in self.channels)
        begin = next(starts, None)
        after = max(at, len(data) - _NEXT_SIZE) if begin is None else begin
        self._skipped += after - at
        if self._skipped > MAX_SKIPPED:
            raise RtspSyntaxError(f"the server sent {MAX_SKIPPED} bytes that are neither RTSP nor packets")
        self._need = 1 if begin is not None else len(data) - after + 1
        return after, begin is None


def request_bytes(method: str, url: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a request without a body.

    Raises:
        RtspSyntaxError: The URL or a header has a control character, which could begin another header.
    """
    return _written(f"{method} {url} RTSP/1.0", headers)


def answer_bytes(status: int, reason: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a response without a body.

    Raises:
        RtspSyntaxError: A header has a control character, which could begin another header.
    """
    return _written(f"RTSP/1.0 {status} {reason}", headers)


def interleaved_bytes(channel: int, data: bytes) -> bytes:
    """Return a packet for the RTSP connection, at most 65,535 bytes."""
    return b"$" + bytes((channel, len(data) >> 8, len(data) & 0xFF)) + data


def _written(first: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers)]
    if any(_CONTROL.search(line) for line in lines):
        raise RtspSyntaxError("a URL or an RTSP header contains a control character")
    return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape")


def _head(head: bytes) -> tuple[str, RtspHeaders]:
    """Return the first line and the headers. Lines without a colon are ignored; a line after a space is a continuation."""
    lines = head.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    if len(lines) > MAX_HEADERS:
        raise RtspSyntaxError(f"the server sent more than {MAX_HEADERS} RTSP headers")
    items: list[tuple[str, str]] = []
    for line in lines[1:]:
        if line[:1] in (" ", "\t") and items:
            name, value = items[-1]
            items[-1] = name, f"{value} {line.strip()}"
            continue
        name, colon, value = line.partition(":")
        if colon:
            items.append((name.strip().lower(), value.strip()))
    return lines[0], RtspHeaders(tuple(items))


def _body_length(headers: RtspHeaders) -> int:
    values = set(headers.all("content-length"))
    if not values:
        return 0
    value = values.pop()
    if values or _DIGITS.fullmatch(value) is None:
        raise RtspSyntaxError("the server sent an invalid Content-Length")
    if int(value) > MAX_BODY:
        raise RtspSyntaxError(f"the server sent an RTSP message of more than {MAX_BODY} bytes")
    return int(value)


def _event(first: str, headers: RtspHeaders, body: bytes) -> RtspEvent:
    if answer := _STATUS_LINE.fullmatch(first.strip()):
        return RtspAnswer(int(answer[1]), answer[2] or "", headers, body)
    if request := _REQUEST_LINE.fullmatch(first.strip()):
        return ServerRequest(request[1].upper(), request[2], headers, body)
    raise RtspSyntaxError("the server sent a line that is not RTSP")


def _cseq(headers: RtspHeaders) -> int | None:
    value = headers.get("cseq")
    return int(value) if value and _DIGITS.fullmatch(value) else None


def listed(value: str | None, separator: str = ";") -> Sequence[str]:
    """Return the parts of a header's value without the spaces around them; empty parts are left out."""
    return [part.strip() for part in (value or "").split(separator) if part.strip()]
