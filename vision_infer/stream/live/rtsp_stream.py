"""Reads a camera over RTSP and RTP with :mod:`vision_infer.stream.rtsp`: the sockets, and when to give up.

Each picture is given out when its last packet has arrived; FFmpeg's parser would hold it until the next one begins. Only the
address that was checked is connected to, also after a redirect, and over UDP only its packets are read.
"""

from __future__ import annotations

import logging
import secrets
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

from vision_infer.config.secrets.credentials import credentials_for
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.live.rtsp_sockets import (
    connected,
    open_firewall,
    received,
    received_packets,
    sent,
    udp_pair,
    unreachable,
    with_credentials,
)
from vision_infer.stream.redact import redact
from vision_infer.stream.rtp_counts import PictureCounts, RtpCounts
from vision_infer.stream.rtsp.client import RtspClient
from vision_infer.stream.rtsp.client_events import ClientEvent, PlayBegun, Redirected, ServerEnded
from vision_infer.stream.rtsp.description import DescriptionError, MediaSection, SessionDescription
from vision_infer.stream.rtsp.message import InterleavedPacket, RtspSyntaxError
from vision_infer.stream.rtsp.sound_track import RtpSoundTrack, TimedSound, unsupported_sound
from vision_infer.stream.rtsp.video_track import RtpVideoTrack, TimedPicture, unsupported
from vision_infer.stream.source import LiveOptions

_MAX_UNSENT = 65_536
"""The maximum number of bytes that wait until the server reads them."""
_POLL_S = 0.25
"""The maximum time until it is noticed that the stream was removed, seconds."""
_MAX_REDIRECTS = 3
_MAX_BYTES = 32_000_000
"""The maximum that a server may send without a picture; a key frame has a few megabytes."""
_SECOND = 1_000_000_000
_NO_UDP = "A firewall may drop the UDP packets. Set transport: tcp if the server offers it."
_log = logging.getLogger("vision_infer.stream")


class UnsupportedByRtpError(StreamError):
    """The camera's stream cannot be read over RTP by this program; FFmpeg may be able to read it.

    Args:
        message: One line that says what is not supported.
        hint: What to do, may be empty.
        connection: The connection, which the caller closes. Some servers end a stream when its last client leaves, and refuse
            the next one meanwhile; so it stays open until FFmpeg has opened its own.
    """

    def __init__(self, message: str, hint: str, connection: ExitStack) -> None:
        super().__init__(message, hint)
        self.connection = connection


class ReadPicture(NamedTuple):
    """A picture, and how long the reader waited for it."""

    timed: TimedPicture
    waited_ns: int
    """The time that the reader waited for data since the previous picture, nanoseconds."""


class RtspStream:
    """One connection to a camera; a context manager.

    Args:
        url: The URL, ``rtsp://`` or ``rtsps://``. A certificate is not verified, since cameras sign their own.
        live: The options of the stream.
        stopping: Ends the reads when it is set.
        clock: The monotonic and wall clock.

    Raises:
        UnsupportedByRtpError: The stream cannot be read over RTP.
        RefusedError: The server refused the connection.
        StreamError: The camera cannot be reached, or deviates from the protocol.
    """

    def __init__(self, url: str, live: LiveOptions, stopping: threading.Event, clock: Clock = SYSTEM_CLOCK) -> None:
        self.media: MediaSection
        """The video that is read."""
        self.sound: MediaSection | None = None
        """The sound that is read; None if there is none, or it is not wanted."""
        self.on_sound: Callable[[TimedSound, int], None] | None = None
        """Called with each packet of sound and the time of its arrival, on the thread that reads."""
        self._shown = redact(url)
        self._live = live
        self._stopping = stopping
        self._now = clock.monotonic_ns
        self.any = False
        """Whether a picture was read."""
        self.silent = False
        """Whether the read failed because nothing arrived."""
        self._waited_ns = self._bytes = self._packets = self._video_packets = 0
        """What has arrived since the last picture."""
        self._early: list[ReadPicture] = []
        self._opened, self._playing = ExitStack(), False
        self._open_until_ns = 0  # known once connected: an address of the host that does not answer takes the whole time
        try:
            self._open(url)
        except BaseException as error:
            if not isinstance(error, UnsupportedByRtpError):
                self.close()
            raise

    def __enter__(self) -> RtspStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session and close the connection."""
        if self._playing:
            self._playing = False
            with suppress(StreamError, OSError):
                self._client.teardown(self._now())
                self._send()  # the answer is not awaited
        self._opened.close()

    def read(self) -> Iterator[ReadPicture]:
        """Yield the pictures until the server ends the stream.

        Raises:
            StreamError: No data or no picture arrives in time, or the server deviates from the protocol.
        """
        last_ns = self._now()
        while not self._stopping.is_set():
            events, pictures = self._step()
            for picture in pictures:
                self.any = True
                yield picture
                last_ns = self._now()
                self._bytes = self._packets = self._video_packets = 0
            if events is None or any(isinstance(event, ServerEnded | Redirected) for event in events):
                return
            if self._video is not None and self._video.ended:
                return
            limit_s = self._live.stall_timeout_s
            if self._now() - last_ns > limit_s * _SECOND:
                self.silent = not self._packets
                hint = _NO_UDP if self._udp and self.silent else "Check the camera and the network."
                raise StreamError(f"{self._shown}: {self._missing()} for {limit_s:g} s", hint)
            if self._bytes > _MAX_BYTES:
                message = f"{self._shown}: the server sent more than {_MAX_BYTES // 1_000_000} MB without a complete frame"
                raise StreamError(message, "Check the stream's format and bit rate.")

    def _missing(self) -> str:
        if not self._packets:
            return "no data"
        return "packets arrive, but no complete image" if self._video_packets else "sound arrives, but no video"

    def _open(self, url: str) -> None:
        """Connect and play, and follow redirects."""
        for _ in range(_MAX_REDIRECTS):
            self._connect(url)
            target = self._play()
            if target is None:
                return
            self.close()
            url = with_credentials(url, target)
        raise RefusedError(f"{self._shown}: more than {_MAX_REDIRECTS} redirects", "Use the URL of the stream itself.")

    def _connect(self, url: str) -> None:
        """Open the sockets."""
        self._udp: list[socket.socket] = []
        self._unsent = bytearray()
        self._video: RtpVideoTrack | None = None
        self._heard: RtpSoundTrack | None = None
        self._selector = selectors.DefaultSelector()
        self._opened.callback(self._selector.close)
        try:
            self._connection = self._opened.enter_context(connected(url, self._live))
        except (OSError, ValueError) as error:
            raise unreachable(self._shown, error, self._live.open_timeout_s) from None
        self._peer = self._connection.getpeername()[0]
        self._open_until_ns = self._open_until_ns or self._now() + round(self._live.open_timeout_s * _SECOND)
        self._selector.register(self._connection, selectors.EVENT_READ, -1)
        ports = self._open_udp() if self._live.transport == "udp" else None
        known = credentials_for(url, self._live.credentials)
        login = None if known is None else (known.user, known.password.get_secret_value())
        answer_s, other = self._live.open_timeout_s, self._other_transport
        self._client = RtspClient(url, self._chosen, lambda: secrets.token_hex(8), ports, answer_s, login, other)

    def _open_udp(self) -> list[int]:
        """Open UDP sockets, and return the first port of each pair."""
        for _ in range(1 + self._live.audio):
            self._udp += [self._opened.enter_context(opened) for opened in udp_pair(self._connection)]
        for channel, opened in enumerate(self._udp):
            self._selector.register(opened, selectors.EVENT_READ, channel)
        return [opened.getsockname()[1] for opened in self._udp[::2]]

    def _other_transport(self) -> list[int] | None:
        """Change the transport, because the server does not offer the preferred one. Returns the UDP ports; None for TCP."""
        before, self._udp = self._udp, []
        used, other = ("UDP", "TCP") if before else ("TCP", "UDP")
        _log.warning("%s: the server does not offer RTSP over %s (461); %s is used", self._shown, used, other)
        for opened in before:
            self._selector.unregister(opened)
            opened.close()
        ports = None if before else self._open_udp()
        self._start_tracks()
        return ports

    def _play(self) -> str | None:
        """Carry on the dialog until the server plays. Returns the URL of a redirect."""
        self._client.start(self._now())
        self._playing = True
        while not self._stopping.is_set():
            if self._now() >= self._open_until_ns:
                raise unreachable(self._shown, TimeoutError(), self._live.open_timeout_s)
            events, pictures = self._step()
            self._early += pictures
            if events is None:
                raise StreamError(f"{self._shown}: the server closed the connection", "Check the URL and the server.")
            for event in events:
                if isinstance(event, Redirected):
                    return event.url
                if isinstance(event, PlayBegun):
                    open_firewall(self._udp, [track.server_ports for track in self._client.tracks], self._peer)
                    return None
            if self._early:  # some servers send packets first, and answer late or never
                return None
        raise StreamError(f"{self._shown}: the stream was removed")

    @property
    def zero_wall_ns(self) -> int | None:
        """The time of the video's zero by the camera's clock, nanoseconds since 1970, UTC; None before it is known."""
        return None if self._video is None else self._video.zero_wall_ns

    @property
    def counts(self) -> tuple[RtpCounts, PictureCounts]:
        """What was received of the video, packets and pictures; the objects change while the stream is read."""
        return (RtpCounts(), PictureCounts()) if self._video is None else (self._video.order.counts, self._video.assembler.counts)

    def _chosen(self, description: SessionDescription) -> Sequence[MediaSection]:
        videos = [media for media in description.media if media.kind == "video"]
        usable = [media for media in videos if not unsupported(media)]
        if not usable:
            why = unsupported(videos[0]) if videos else "the server offers no video"
            raise UnsupportedByRtpError(f"{self._shown}: {why}", "", self._opened)
        self.media = usable[0]
        self.sound = next((media for media in description.media if media.kind == "audio"), None) if self._live.audio else None
        if self.sound is not None and (why := unsupported_sound(self.sound)):
            hint = "With audio: false, the video is read over RTP."
            raise UnsupportedByRtpError(f"{self._shown}: {why}", hint, self._opened)
        self._start_tracks()
        return [self.media] if self.sound is None else [self.media, self.sound]

    def _start_tracks(self) -> None:
        self._video = RtpVideoTrack(self.media, secrets.randbits(32), bool(self._udp))
        self._heard = None if self.sound is None else RtpSoundTrack(self.sound, bool(self._udp))

    def _step(self) -> tuple[list[ClientEvent] | None, list[ReadPicture]]:
        """Send what is due, and wait for data once. Returns None in place of events at the end of the connection."""
        now = self._now()
        self._client.tick(now)
        try:
            self._send()
            ready = self._ready(now)
            now = self._now()
            events: list[ClientEvent] = []
            pictures: list[TimedPicture] = []
            for channel in ready:
                data = received(self._connection) if channel < 0 else received_packets(self._udp[channel], self._peer)
                if data == [b""]:  # the end of the connection
                    return None, self._read(pictures)
                self._bytes += sum(map(len, data))
                for one in data:
                    found = self._client.receive(one, now) if channel < 0 else [InterleavedPacket(channel, one)]
                    events += found
                    for event in found:
                        if isinstance(event, InterleavedPacket):
                            pictures += self._packet(event, now)
        except (RtspSyntaxError, DescriptionError) as error:
            message = error.message if error.message.startswith(self._shown) else f"{self._shown}: {error.message}"
            raise type(error)(message, error.hint or "Check the camera and the network.") from None
        except (OSError, ssl.SSLError) as error:
            raise StreamError(f"{self._shown}: the connection broke: {error.strerror or error}", "Check the network.") from None
        if self._video is not None:
            pictures += self._video.expire(now)
        return events, self._read(pictures)

    def _send(self) -> None:
        """Send what is due, as far as the connection takes it: a server that reads nothing must not delay the stream's end."""
        self._unsent += self._client.to_send()
        if self._unsent:
            del self._unsent[: sent(self._connection, self._unsent)]
            if len(self._unsent) > _MAX_UNSENT:
                raise StreamError(f"{self._shown}: the server reads no requests", "Check the camera and the network.")

    def _ready(self, now_ns: int) -> list[int]:
        """Wait for data, and return the channels that have some; -1 is the connection itself."""
        if isinstance(self._connection, ssl.SSLSocket) and self._connection.pending():
            return [-1]
        times = [self._client.deadline_ns, None if self._video is None else self._video.deadline_ns]
        due_s = min((time - now_ns for time in times if time is not None), default=_SECOND) / _SECOND
        found = [key.data for key, _ in self._selector.select(max(0.0, min(due_s, _POLL_S)))]
        self._waited_ns += self._now() - now_ns
        return found

    def _packet(self, packet: InterleavedPacket, now_ns: int) -> list[TimedPicture]:
        channel, data = packet
        self._packets += not channel % 2
        self._video_packets += not channel
        if channel == 0 and self._video is not None:
            report = self._video.report(now_ns)
            if report is not None:
                self._report(report)
            return self._video.push_rtp(data, now_ns)
        if channel == 1 and self._video is not None:
            self._video.push_rtcp(data, now_ns)
        elif channel == 2 and self._heard is not None:
            for sound in self._heard.push_rtp(data, now_ns):
                if self.on_sound is not None:
                    self.on_sound(sound, now_ns)
        elif channel == 3 and self._heard is not None:
            self._heard.push_rtcp(data)
        return []

    def _report(self, report: bytes) -> None:
        """Send a receiver report of the video."""
        if not self._udp:
            self._client.send_rtcp(0, report)
        elif ports := self._client.tracks[0].server_ports:
            with suppress(OSError):
                self._udp[1].sendto(report, (self._peer, ports[1]))

    def _read(self, pictures: list[TimedPicture]) -> list[ReadPicture]:
        out = [
            *self._early,
            *(ReadPicture(picture, self._waited_ns if not place else 0) for place, picture in enumerate(pictures)),
        ]
        self._early = []
        if pictures:
            self._waited_ns = 0
        return out
