"""The dialog with an RTSP server (RFC 2326), as a client that plays: OPTIONS, DESCRIBE, SETUP, PLAY, keep-alive, TEARDOWN.

Bytes of the server go in, packets and other events come out, and the bytes for the server are taken with
:meth:`RtspClient.to_send`. Packets are accepted as soon as their track is set up, since servers send them before they answer
PLAY. ``RTP-Info`` is not used, because cameras return wrong sequence numbers and times in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.redact import redact
from vision_infer.stream.rtsp.authentication import Authenticator
from vision_infer.stream.rtsp.client_events import ClientEvent, PlayBegun, Redirected, ServerEnded, TrackSetup
from vision_infer.stream.rtsp.control_url import base_url, redirect_target, split_credentials
from vision_infer.stream.rtsp.description import DescriptionError, MediaSection, SessionDescription, parse_description
from vision_infer.stream.rtsp.message import (
    InterleavedPacket,
    MessageReader,
    RtspAnswer,
    RtspSyntaxError,
    ServerRequest,
    answer_bytes,
    interleaved_bytes,
    listed,
    request_bytes,
)
from vision_infer.stream.rtsp.refusal import ServerStatusError, TransportRefusedError, refusal

_SECOND = 1_000_000_000
_TIMEOUT_S, _MAX_TIMEOUT_S = 60, 3600
"""The session timeout that applies if the server returns none, and the longest that is considered, seconds."""
_MAX_TRIES = 3
"""The maximum number of times that a request is sent: without a password, with one, and with a new nonce."""
_MAX_WAITING = 65_536
"""The maximum number of bytes that wait to be sent."""
_INTERLEAVED = re.compile(r"interleaved=\s*(\d{1,3})(?:\s*-\s*\d{1,3})?", re.ASCII)
_SERVER_PORT = re.compile(r"server_port=\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?", re.ASCII)
_TIMEOUT = re.compile(r"timeout\s*=\s*(\d{1,6})", re.IGNORECASE | re.ASCII)
_REDIRECTS = frozenset({301, 302, 303, 305, 307, 308})
_MAX_PORT = 65_535


@dataclass(slots=True)
class _Request:
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    sent_ns: int
    tries: int = 1


class RtspClient:
    """Plays the streams of one URL on one connection.

    Args:
        url: The URL, with or without credentials.
        choose: Returns the streams to play; it may raise a StreamError.
        random_text: Returns a random text of hexadecimal digits that was not used before.
        udp_ports: The first of two consecutive local ports for each stream that may be chosen; None for TCP.
        answer_s: The time that the server has for an answer, seconds.
        login: The user name and password, in place of those of the URL.
        other: Called once if the server does not offer the transport (461); prepares the other one, and returns its UDP ports as
            in ``udp_ports``. None to give up.
    """

    def __init__(
        self,
        url: str,
        choose: Callable[[SessionDescription], Sequence[MediaSection]],
        random_text: Callable[[], str],
        udp_ports: Sequence[int] | None = None,
        answer_s: float = 10.0,
        login: tuple[str, str] | None = None,
        other: Callable[[], Sequence[int] | None] | None = None,
    ) -> None:
        self._url, user, password = split_credentials(url)
        self._shown = redact(url)
        self._choose = choose
        self._random_text = random_text
        self._udp_ports = udp_ports
        self._other, self._switched = other, False
        self._answer_ns = round(answer_s * _SECOND)
        self._authenticator = Authenticator(*(login or (user, password)))
        self._reader = MessageReader()
        self._out: list[bytes] = []
        self._requests: dict[int, _Request] = {}
        self._cseq = 0
        self._session = ""
        self._timeout_s = _TIMEOUT_S
        self._control = self._url
        self._keep_alive = "GET_PARAMETER"
        self._alive_ns: int | None = None
        """When the next keep-alive is due; None before the server plays."""
        self._channels: dict[int, int] = {}
        """Our channel, two for each track, by the server's."""
        self._tracks_set_up = 0
        self._ended = self._heard = False
        self._now = 0
        self.tracks: list[TrackSetup] = []
        """The streams that were chosen, in this order."""

    @property
    def deadline_ns(self) -> int | None:
        """When :meth:`tick` must be called, monotonic nanoseconds."""
        if self._alive_ns is not None or self._ended:
            return None if self._ended else self._alive_ns
        return min((request.sent_ns + self._answer_ns for request in self._requests.values()), default=None)

    def start(self, now_ns: int) -> None:
        """Begin the dialog, once connected."""
        self._now = now_ns
        self._request("OPTIONS", self._url)

    def to_send(self) -> bytes:
        """Return the bytes to send now, and forget them."""
        out, self._out = b"".join(self._out), []
        return out

    def receive(self, data: bytes, now_ns: int) -> list[ClientEvent]:
        """Take bytes from the server.

        Args:
            data: What was read.
            now_ns: The present time, monotonic nanoseconds.

        Returns:
            What has happened. The channel of a packet is twice the index of its track, plus 1 for RTCP.

        Raises:
            RtspSyntaxError, DescriptionError: The server deviates from the protocol in a way that is not supported.
            TransportRefusedError: The server does not offer the transport.
            RefusedError: The server refused, for example the password.
            StreamError: The server failed.
        """
        self._now = now_ns
        out: list[ClientEvent] = []
        for event in self._reader.push(data):
            if type(event) is InterleavedPacket:
                channel = self._channels.get(event.channel)
                if channel is not None:
                    self._heard = True
                    out.append(event if channel == event.channel else InterleavedPacket(channel, event.data))
            elif isinstance(event, RtspAnswer):
                self._answered(event, out)
            elif isinstance(event, ServerRequest):
                self._asked(event, out)
        return out

    def tick(self, now_ns: int) -> None:
        """Do what is due: send a keep-alive, or notice that the server does not answer.

        Raises:
            StreamError: The server has not answered a request of the dialog in time.
        """
        self._now = now_ns
        if self._alive_ns is not None:
            if now_ns >= self._alive_ns and not self._ended:
                self._requests.clear()  # packets show whether the server is there; many servers answer no keep-alive
                self._alive_ns = now_ns + self._timeout_s * _SECOND // 2
                self._request(self._keep_alive, self._control)
            return
        for request in self._requests.values():
            if now_ns - request.sent_ns < self._answer_ns:
                continue
            if request.method == "PLAY" and self._heard:  # packets are an answer, too
                self._alive_ns = now_ns + self._timeout_s * _SECOND // 2
            else:
                message = f"{self._shown}: no answer within {self._answer_ns / _SECOND:g} s"
                raise StreamError(message, "Check that it is on and reachable from this machine.")

    def send_rtcp(self, track: int, data: bytes) -> None:
        """Send an RTCP packet for a track on this connection."""
        self._queue(interleaved_bytes(self.tracks[track].channel + 1, data))

    def teardown(self, now_ns: int) -> None:
        """End the session; the answer need not be awaited."""
        self._now = now_ns
        if self._session and not self._ended:
            self._ended = True
            self._request("TEARDOWN", self._control)

    def _request(self, method: str, url: str, *headers: tuple[str, str]) -> None:
        self._send(_Request(method, url, headers, self._now))

    def _send(self, request: _Request) -> None:
        self._cseq += 1
        self._requests[self._cseq] = request
        request.sent_ns = self._now
        headers = [("CSeq", str(self._cseq)), ("User-Agent", "vision-infer"), *request.headers]
        if self._session:
            headers.append(("Session", self._session))
        authorization = self._authenticator.header(request.method, request.url, self._random_text())
        if authorization is not None:
            headers.append(("Authorization", authorization))
        self._queue(request_bytes(request.method, request.url, headers))

    def _queue(self, data: bytes) -> None:
        self._out.append(data)
        if sum(map(len, self._out)) > _MAX_WAITING:
            raise RtspSyntaxError(f"{self._shown}: the server sends requests, but reads no answers")

    def _pending(self, answer: RtspAnswer) -> _Request | None:
        """Return the request that is answered. A server that returns no number, or an impossible one, answers the oldest."""
        number = answer.cseq
        if number is not None and 0 < number <= self._cseq:
            return self._requests.pop(number, None)
        return self._requests.pop(min(self._requests)) if self._requests else None

    def _answered(self, answer: RtspAnswer, out: list[ClientEvent]) -> None:
        if answer.status < 200:
            return
        request = self._pending(answer)
        if self._alive_ns is not None and answer.status >= 400 and answer.status != 401:
            # Even if the number is that of an earlier request: https://github.com/scottlamb/retina/issues/136
            self._keep_alive = "OPTIONS"
        if request is None or request.method == "TEARDOWN":
            return
        if answer.status == 401:
            self._authenticate(request, answer)
        elif self._alive_ns is not None:
            return
        elif answer.status in _REDIRECTS:
            self._redirected(answer.headers.get("location"), out)
        elif request.method == "OPTIONS":  # a server that does not know it is asked for its description anyway
            public = [name.upper() for name in listed(answer.headers.get("public"), ",")]
            if "GET_PARAMETER" not in public:
                self._keep_alive = "OPTIONS"
            self._request("DESCRIBE", self._url, ("Accept", "application/sdp"))
        elif answer.status == 461 and not self._tracks_set_up and self._other is not None and not self._switched:
            self._switched, self._channels = True, {}
            self._udp_ports = self._other()
            self._set_up_next(0)
        elif answer.status >= 300:
            used = "neither TCP nor UDP" if self._switched else "TCP" if self._udp_ports is None else "UDP"
            cause = ServerStatusError(answer.status, self._authenticator.realm)
            raise refusal(self._shown, request.method, answer, used) from cause
        elif request.method == "DESCRIBE":
            self._described(answer, request.url)
        elif request.method == "SETUP":
            self._set_up(answer)
        elif request.method == "PLAY":
            self._alive_ns = self._now + self._timeout_s * _SECOND // 2
            out.append(PlayBegun())

    def _authenticate(self, request: _Request, answer: RtspAnswer) -> None:
        again = self._authenticator.challenged(answer.headers.all("www-authenticate"))
        if not again or request.tries >= _MAX_TRIES:
            if self._alive_ns is not None:
                return  # the packets show whether the session goes on
            hint = "Check the user name and password (URL or `credentials`)."
            raise RefusedError(f"{self._shown}: authentication failed (401)", hint) from ServerStatusError(401)
        request.tries += 1
        self._send(request)

    def _described(self, answer: RtspAnswer, url: str) -> None:
        kind = answer.headers.get("content-type") or "application/sdp"
        if "sdp" not in kind.lower():
            raise DescriptionError(f"{self._shown}: the server describes its streams as {redact(kind[:80])}, not as SDP")
        description = parse_description(answer.body, base_url(answer.headers, url))
        self._control = description.control
        self.tracks = [TrackSetup(media) for media in self._choose(description)]
        if not self.tracks:
            raise DescriptionError(f"{self._shown}: no stream to play")
        self._set_up_next(0)

    def _set_up_next(self, index: int) -> None:
        if self._udp_ports is None:
            transport = f"RTP/AVP/TCP;unicast;interleaved={2 * index}-{2 * index + 1}"
            self._map(index, 2 * index)
        else:
            port = self._udp_ports[index]
            transport = f"RTP/AVP;unicast;client_port={port}-{port + 1}"
        self._request("SETUP", self.tracks[index].media.control, ("Transport", transport))

    def _map(self, index: int, channel: int) -> None:
        self._channels = {theirs: ours for theirs, ours in self._channels.items() if ours >> 1 != index}
        if channel in self._channels or channel + 1 in self._channels or channel > 254:
            raise RtspSyntaxError(f"{self._shown}: the server uses channel {channel} for two streams")
        self._channels |= {channel: 2 * index, channel + 1: 2 * index + 1}
        self._reader.channels = frozenset(self._channels)
        self.tracks[index].channel = channel

    def _set_up(self, answer: RtspAnswer) -> None:
        index = self._tracks_set_up
        track = self.tracks[index]
        transport = answer.headers.get("transport") or ""
        # Cameras that change it expect the first one: https://github.com/scottlamb/retina/blob/main/CHANGELOG.md (v0.4.6)
        session = listed(answer.headers.get("session"))
        if session and not self._session:
            self._session = session[0]
        found = _TIMEOUT.search(answer.headers.get("session") or "")
        if found and int(found[1]) > 0:
            self._timeout_s = min(int(found[1]), _MAX_TIMEOUT_S)
        if self._udp_ports is None:
            channels = _INTERLEAVED.search(transport)
            if channels is None and "server_port" in transport:
                raise TransportRefusedError(f"{self._shown}: the server does not offer RTSP over TCP")
            if channels is not None:
                self._map(index, int(channels[1]))
        elif ports := _SERVER_PORT.search(transport):
            first = int(ports[1])
            second = int(ports[2] or first + 1)
            track.server_ports = (first, second) if max(first, second) <= _MAX_PORT else None
        self._tracks_set_up += 1
        if self._tracks_set_up < len(self.tracks):
            self._set_up_next(self._tracks_set_up)
        else:
            self._request("PLAY", self._control, ("Range", "npt=0.000-"))

    def _redirected(self, location: str | None, out: list[ClientEvent]) -> None:
        target = redirect_target(location or "")
        if not target:
            raise RefusedError(f"{self._shown}: the server redirects to an address that is not an RTSP URL", "Check the URL.")
        self._ended = True
        out.append(Redirected(target))

    def _asked(self, request: ServerRequest, out: list[ClientEvent]) -> None:
        """Answer a request of the server."""
        known = request.method in ("OPTIONS", "GET_PARAMETER", "SET_PARAMETER", "REDIRECT", "TEARDOWN")
        headers = [] if request.cseq is None else [("CSeq", str(request.cseq))]
        if request.method == "OPTIONS":
            headers.append(("Public", "OPTIONS, GET_PARAMETER, SET_PARAMETER, REDIRECT, TEARDOWN"))
        self._queue(answer_bytes(200, "OK", headers) if known else answer_bytes(501, "Not Implemented", headers))
        if request.method == "REDIRECT":
            self._redirected(request.headers.get("location"), out)
        elif request.method == "TEARDOWN":
            self._ended = True
            out.append(ServerEnded())
