"""A bad network between a client and an RTSP server, for RTSP over TCP (interleaved): faults come and go on command.

    with FaultProxy(server.port) as network:
        source = open(network.url("/clock"))
        network.freeze()
        …
        network.heal()

Nothing is rewritten but what a fault asks for. Faults but ``drop`` and ``refuse`` are about what the server sends; the client's
requests go through, except with ``freeze``. All threads belong to this process, and end with the context.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType

TICK_S = 0.02
"""The interval at which a waiting thread checks for changes, seconds."""
MAX_CONNECTIONS = 256
MAX_BUFFERED = 64 << 20
"""The maximum number of bytes that a stall holds back per connection; a connection with more is dropped."""
CLOCK_RATE = 90_000
"""The RTP clock rate of all video codecs, Hz."""
FIRST_DYNAMIC_TYPE = 96
_JOIN_S = 10.0


@dataclass(frozen=True)
class Faults:
    """The faults in the data that the server sends."""

    frozen: bool = False
    """Whether nothing is forwarded, in both directions."""
    bytes_per_second: int | None = None
    garbage: bool = False
    """Whether the bytes of each packet are replaced by random ones."""
    flipped: float = 0.0
    """The fraction of the video packets, 0 to 1, in which one bit of the payload is flipped."""
    shift_s: float = 0.0
    """The shift of the times of video packets, seconds."""
    rewritten: tuple[bytes, bytes] | None = None
    """Bytes in the server's answers, and their replacement of the same length."""
    held_until: float = 0.0
    """The end of a stall, monotonic seconds; data that arrives earlier is then sent at once."""


class FaultProxy:
    """A TCP port of the loopback interface that forwards to a server with faults; a context manager.

    Args:
        server_port: The port of the RTSP server on the loopback interface.
        seed: The seed of random faults.
    """

    def __init__(self, server_port: int, seed: int = 0) -> None:
        self.server_port = server_port
        self.faults = Faults()
        self.random = random.Random(seed)
        self.accepted = 0
        """The number of connections so far."""
        self.flips = 0
        """The number of flipped bits so far."""
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._accepting = True
        self._stopping = False
        self._connections: set[_Connection] = set()
        self._thread = threading.Thread(target=self._accept, name="fault proxy")
        self.port = 0

    def __enter__(self) -> FaultProxy:
        self._listener = self._listen()
        self.port = self._listener.getsockname()[1]
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._stopping = True
        self._thread.join(_JOIN_S)
        assert not self._thread.is_alive()
        self.drop()

    def url(self, path: str, user: str = "", password: str = "") -> str:
        """Return the URL of a mount through this network."""
        credentials = f"{user}:{password}@" if user else ""
        return f"rtsp://{credentials}127.0.0.1:{self.port}{path}"

    @property
    def open_connections(self) -> int:
        """The number of open connections."""
        with self._changed:
            return len(self._connections)

    def freeze(self) -> None:
        """Forward nothing; connections stay open, and new ones are accepted but not answered."""
        self.faults = replace(self.faults, frozen=True)

    def drip(self, bytes_per_second: int) -> None:
        """Limit the data rate of each connection."""
        self.faults = replace(self.faults, bytes_per_second=bytes_per_second)

    def garbage(self) -> None:
        """Replace each packet of the server by random bytes."""
        self.faults = replace(self.faults, garbage=True)

    def flip_bits(self, part: float = 0.01) -> None:
        """Flip one bit of the payload in a fraction of the video packets."""
        self.faults = replace(self.faults, flipped=part)

    def shift_times(self, seconds: float) -> None:
        """Shift the times of video packets from now on, forwards or backwards."""
        self.faults = replace(self.faults, shift_s=seconds)

    def rewrite(self, said: bytes, instead: bytes) -> None:
        """Replace bytes in the server's answers by others of the same length."""
        assert len(said) == len(instead)
        self.faults = replace(self.faults, rewritten=(said, instead))

    def stall(self, seconds: float) -> None:
        """Hold back all data for a time, then send it at once."""
        self.faults = replace(self.faults, held_until=time.monotonic() + seconds)

    def heal(self) -> None:
        """End all faults, and accept new connections again."""
        self.faults = Faults()
        self._take_connections(True)

    def drop(self) -> None:
        """Close all connections."""
        with self._changed:
            connections = tuple(self._connections)
        for connection in connections:
            connection.close()
        for connection in connections:
            connection.join()

    def refuse(self) -> None:
        """Accept no new connections; open ones stay. When this returns, the port is closed."""
        self._take_connections(False)

    def _take_connections(self, wanted: bool) -> None:
        with self._changed:
            self._accepting = wanted
            assert self._changed.wait_for(lambda: (self._listener is not None) == wanted, _JOIN_S)

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        listener.settimeout(TICK_S)
        return listener

    def _accept(self) -> None:
        """Accept connections, on the thread that owns the listening socket."""
        while True:
            with self._changed:
                if self._stopping or not self._accepting:
                    if self._listener is not None:
                        self._listener.close()
                        self._listener = None
                elif self._listener is None:
                    self._listener = self._listen()
                self._changed.notify_all()
                if self._stopping:
                    return
                listener = self._listener
                if listener is None:
                    self._changed.wait(TICK_S)
                    continue
            with suppress(TimeoutError):
                client, _ = listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.server_port), timeout=5)
        except OSError:
            client.close()
            return
        with self._changed:
            if len(self._connections) >= MAX_CONNECTIONS:
                client.close()
                server.close()
                return
            self.accepted += 1
            connection = _Connection(self, client, server)
            self._connections.add(connection)
            connection.start()

    def forget(self, connection: _Connection) -> None:
        """Remove a connection that has ended."""
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()


class _Connection:
    """A connection with two threads, one for each direction."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        self.closed = threading.Event()
        self._proxy = proxy
        self._client, self._server = client, server
        for each in (client, server):
            each.settimeout(TICK_S)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._up = threading.Thread(target=self._requests, name="fault proxy up")
        self._down = threading.Thread(target=self._answers, name="fault proxy down")

    def start(self) -> None:
        self._up.start()
        self._down.start()

    def close(self) -> None:
        self.closed.set()

    def join(self) -> None:
        self._down.join(_JOIN_S)
        assert not self._down.is_alive()

    def _requests(self) -> None:
        """Forward the client's requests unchanged."""
        while not self.closed.is_set():
            if self._proxy.faults.frozen:
                self.closed.wait(TICK_S)
                continue
            data = self._receive(self._client)
            if data is None or not self._send(self._server, data):
                self.close()

    def _answers(self) -> None:
        """Forward the server's answers through the faults, and end the connection."""
        parts, held = _Parts(), bytearray()
        while not self.closed.is_set():
            faults = self._proxy.faults
            if faults.frozen:
                self.closed.wait(TICK_S)
                continue
            data = self._receive(self._server)
            if data is None:
                self.close()
                break
            for part in parts.feed(data):
                held += self._changed_by(faults, part)
            if time.monotonic() >= faults.held_until:
                if held and not self._send(self._client, bytes(held)):
                    self.close()
                held.clear()
            elif len(held) > MAX_BUFFERED:
                self.close()
        self._up.join(_JOIN_S)
        for each in (self._client, self._server):
            each.close()
        self._proxy.forget(self)

    def _changed_by(self, faults: Faults, part: bytes) -> bytes:
        dice = self._proxy.random
        if faults.garbage:
            return dice.randbytes(len(part))
        payload = video_payload(part)
        if payload is None:
            return part if faults.rewritten is None or part[:1] == b"$" else part.replace(*faults.rewritten)
        changed = bytearray(part)
        if faults.shift_s:
            stamp = int.from_bytes(changed[8:12], "big") + round(faults.shift_s * CLOCK_RATE)
            changed[8:12] = (stamp % (1 << 32)).to_bytes(4, "big")
        if faults.flipped and dice.random() < faults.flipped:
            changed[dice.randrange(payload, len(changed))] ^= 1 << dice.randrange(8)
            self._proxy.flips += 1
        return bytes(changed)

    def _receive(self, source: socket.socket) -> bytes | None:
        """Return the available data, at most 64 KiB; None at the end."""
        try:
            return source.recv(1 << 16) or None
        except TimeoutError:
            return b""
        except OSError:
            return None

    def _send(self, target: socket.socket, data: bytes) -> bool:
        """Send all data, as fast as the faults allow; return False if the connection has ended meanwhile."""
        rest = memoryview(data)
        while rest and not self.closed.is_set():
            faults = self._proxy.faults
            if faults.frozen:
                self.closed.wait(TICK_S)
                continue
            most = len(rest)
            if faults.bytes_per_second is not None and target is self._client:
                most = max(1, round(faults.bytes_per_second * TICK_S))
                self.closed.wait(most / faults.bytes_per_second)
            try:
                rest = rest[target.send(rest[:most]) :]
            except TimeoutError:
                continue
            except OSError:
                return False
        return not rest


class _Parts:
    """Splits the data of an RTSP server into complete messages and packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add data, and return all parts that are now complete."""
        self._buffer += data
        parts: list[bytes] = []
        while self._buffer:
            length = self._length()
            if length is None or len(self._buffer) < length:
                break
            parts.append(bytes(self._buffer[:length]))
            del self._buffer[:length]
        return parts

    def _length(self) -> int | None:
        """Return the length of the first part; None while it is unknown."""
        buffer = self._buffer
        if buffer[0] == ord("$"):
            return 4 + int.from_bytes(buffer[2:4], "big") if len(buffer) >= 4 else None
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        length = end + 4
        for line in bytes(buffer[:end]).split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length += int(value)
        return length


def video_payload(part: bytes) -> int | None:
    """Return the offset of a video packet's payload, after the four bytes of the interleaving and the RTP header.

    None for other data: an answer, a sender report, sound of a fixed type, or nothing behind the header.
    """
    if len(part) < 16 or part[0] != ord("$") or part[1] % 2 or part[4] >> 6 != 2 or part[5] & 0x7F < FIRST_DYNAMIC_TYPE:
        return None
    begin = 16 + 4 * (part[4] & 0x0F)
    if part[4] & 0x10 and len(part) >= begin + 4:
        begin += 4 + 4 * int.from_bytes(part[begin + 2 : begin + 4], "big")
    return begin if begin < len(part) else None
