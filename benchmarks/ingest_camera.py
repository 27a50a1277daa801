"""Cameras of the ingest benchmark: a small RTSP server that sends the same recorded RTP packets to all its clients.

One thread sends to all of them, so 64 cameras of 4 Mbit/s cost less than the program that is measured. The server can lose
packets over UDP, and counts them.
"""

from __future__ import annotations

import base64
import random
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType

from tests.support.rtp_packets import payloads, rtp
from vision_infer.stream.live.rtsp_sockets import udp_pair
from vision_infer.stream.rtsp.message import MessageReader, ServerRequest, interleaved_bytes

PACKET_GAP_S = 1e-4
"""The time between two packets of a picture: that of 1,400 bytes at 100 Mbit/s, the usual port of a camera."""
_CLOCK_RATE = 90_000
_START_CODE = re.compile(rb"\x00*\x00\x00\x01")
_CLIENT_PORT = re.compile(r"client_port=(\d+)")
_STEP = 7
"""The distance of the first pictures of two clients, so that not all key frames are sent at the same time."""
_LOOK_S = 0.01
_SLICES = (1, 5)
"""The types of H.264 NAL units with a slice."""


def recorded(file: Path) -> list[bytes]:
    """Return the pictures of a video of :class:`tests.support.cameras.Encoded`."""
    data, pictures, at = file.read_bytes(), [], 0
    while at < len(data):
        begin = at + 4
        at = begin + int.from_bytes(data[at:begin], "big")
        pictures.append(data[begin:at])
    return pictures


def units_of(picture: bytes) -> list[bytes]:
    """Return the NAL units of a picture with start codes (Annex B)."""
    return [unit for unit in _START_CODE.split(picture) if unit]


def slices_of(picture: bytes) -> bytes:
    """Return the slices of a picture of H.264; a lost parameter set does not cut a picture."""
    return b"".join(unit for unit in units_of(picture) if unit[0] & 31 in _SLICES)


@dataclass(slots=True)
class _Player:
    """A client that plays."""

    connection: socket.socket
    udp: tuple[str, int] | None
    """The address for RTP over UDP; None over TCP."""
    pictures: int = 0
    """The number of pictures that were sent to the end."""


class RecordedCameras:
    """Serves a recorded video at any path until the context ends. Each client starts at another picture.

    Args:
        pictures: The pictures with start codes, H.264; the first is a key frame. They are repeated.
        fps: Frames per second.
        loss: The part of the packets that is lost over UDP (0–1).
        loses: The pictures of each client that lose packets, counted from its first one.
    """

    def __init__(self, pictures: Sequence[bytes], fps: float, loss: float = 0.0, loses: range = range(0)) -> None:
        self.sent = self.lost = 0
        """The packets for clients over UDP in the pictures of ``loses``, and those of them that were lost."""
        self.late_s = 0.0
        """The maximum delay of a packet that was sent since this was last set to 0, seconds."""
        self._pictures = [list(payloads(units_of(picture), hevc=False)) for picture in pictures]
        self._fps, self._loss, self._loses = fps, loss, loses
        self._random = random.Random(1)
        sets = ",".join(base64.b64encode(unit).decode() for unit in units_of(pictures[0]) if unit[0] & 31 in (7, 8))
        format_line = f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}\r\n"
        self._sdp = f"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/{_CLOCK_RATE}\r\n{format_line}a=framerate:{fps:g}\r\n"
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._udp = udp_pair(self._listener)
        self._joining: deque[_Player] = deque()  # each connection's thread appends, the sending thread takes; both are atomic
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._accept, self._send)]

    def __enter__(self) -> RecordedCameras:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for opened in (self._listener, *self._udp):
            opened.close()

    def url(self, path: str) -> str:
        """Return the URL of a camera."""
        return f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}{path}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer the requests of one client; what it sends besides, such as receiver reports, is ignored."""
        reader, udp = MessageReader(), None
        with suppress(OSError):
            while data := connection.recv(65_536):
                for request in reader.push(data):
                    if not isinstance(request, ServerRequest):
                        continue
                    if request.method == "SETUP" and (port := _CLIENT_PORT.search(request.headers.get("transport") or "")):
                        udp = ("127.0.0.1", int(port[1]))
                    connection.sendall(self._answer(request, udp is not None))
                    if request.method == "PLAY":
                        self._joining.append(_Player(connection, udp))

    def _answer(self, request: ServerRequest, udp: bool) -> bytes:
        own = self._udp[0].getsockname()[1]
        lines = ["RTSP/1.0 200 OK", f"CSeq: {request.cseq}", "Session: 1"]
        body = self._sdp if request.method == "DESCRIBE" else ""
        if request.method == "SETUP":
            asked = request.headers.get("transport") or ""
            lines.append(f"Transport: {asked};server_port={own}-{own + 1}" if udp else f"Transport: {asked}")
        if body:
            lines += ["Content-Type: application/sdp", f"Content-Base: {request.url}/"]
        return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", body)).encode()

    def _send(self) -> None:
        """Send each packet when it is due."""
        due: list[tuple[float, int, bytes, _Player, Iterator[tuple[float, bytes]]]] = []
        joined = 0
        while not self._ended.is_set():
            while self._joining:
                packets = self._packets(time.monotonic(), joined * _STEP % len(self._pictures))
                at_s, packet = next(packets)
                heappush(due, (at_s, joined, packet, self._joining.popleft(), packets))
                joined += 1
            wait_s = due[0][0] - time.monotonic() if due else _LOOK_S
            if wait_s > 0:
                time.sleep(min(wait_s, _LOOK_S))
                continue
            self.late_s = max(self.late_s, -wait_s)
            _, number, packet, player, packets = due[0]
            try:
                self._send_packet(player, packet)
            except OSError:  # the client has ended
                heappop(due)
                player.connection.close()
                continue
            at_s, packet = next(packets)
            heapreplace(due, (at_s, number, packet, player, packets))
        for *_, player, _ in due:
            player.connection.close()

    def _send_packet(self, player: _Player, packet: bytes) -> None:
        if player.udp is None:
            player.connection.sendall(interleaved_bytes(0, packet))
        elif not self._is_lost(player):
            self._udp[0].sendto(packet, player.udp)
        player.pictures += packet[1] >> 7

    def _is_lost(self, player: _Player) -> bool:
        if player.pictures not in self._loses:
            return False
        lost = self._random.random() < self._loss
        self.sent += 1
        self.lost += lost
        return lost

    def _packets(self, began_s: float, first: int) -> Iterator[tuple[float, bytes]]:
        """Yield each packet and when it is due: the pictures again and again from this one, with continuous numbers and times."""
        sequence = 0
        for number, picture in enumerate(islice(cycle(self._pictures), first, None)):
            at_s, timestamp = began_s + number / self._fps, round(number * _CLOCK_RATE / self._fps)
            for place, (part, last) in enumerate(picture):
                yield at_s + place * PACKET_GAP_S, rtp(part, sequence, timestamp, last)
                sequence += 1
