"""The ICE part of a player, over real sockets: connectivity checks and packets to the shared port, UDP or TCP."""

from __future__ import annotations

import re
import secrets
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

from aioice import stun

LIMIT_S = 10.0
_LENGTH = struct.Struct("!H")


@dataclass
class IcePeer:
    """A player that knows the service's answer; it builds and reads STUN messages.

    Args:
        ufrag: The user name fragment of the service.
        password: The password of the service.
    """

    ufrag: str
    password: str
    own_ufrag: str = field(default_factory=lambda: secrets.token_hex(4))
    own_password: str = field(default_factory=lambda: secrets.token_hex(12))

    @staticmethod
    def of_answer(answer: str, own_ufrag: str, own_password: str) -> IcePeer:
        """Return the peer of an SDP answer."""
        found = [re.findall(rf"^a={name}:(\S+)", answer, re.MULTILINE)[0] for name in ("ice-ufrag", "ice-pwd")]
        return IcePeer(found[0], found[1], own_ufrag, own_password)

    def check(self, nominate: bool = True, controlled: bool = False, password: str | None = None) -> bytes:
        """Return a connectivity check, signed with a password; empty: not signed."""
        message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        message.attributes["USERNAME"] = f"{self.ufrag}:{self.own_ufrag}"
        message.attributes["PRIORITY"] = 1853824767
        message.attributes["ICE-CONTROLLED" if controlled else "ICE-CONTROLLING"] = 7
        if nominate:
            message.attributes["USE-CANDIDATE"] = None
        if password != "":
            message.add_message_integrity((password or self.password).encode())
        return bytes(message)

    def answer(self, check: bytes) -> bytes:
        """Return the answer to a check of the service, which must be signed with the player's password."""
        message = stun.parse_message(check)
        assert message.message_class == stun.Class.REQUEST
        assert message.attributes["USERNAME"] == f"{self.own_ufrag}:{self.ufrag}"
        assert message.check_message_integrity(self.own_password.encode())
        return self.guess(check)

    def guess(self, check: bytes) -> bytes:
        """Return an answer to a check without looking at it."""
        message = stun.parse_message(check)
        reply = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, message.transaction_id)
        reply.add_message_integrity(self.own_password.encode())
        return bytes(reply)

    def verified(self, answer: bytes) -> stun.Message:
        """Return the service's answer to a check; its signature must be valid."""
        message = stun.parse_message(answer)
        assert message.message_class != stun.Class.REQUEST
        assert message.check_message_integrity(self.password.encode())
        return message


def framed(*packets: bytes) -> bytes:
    """Return packets as a TCP connection carries them (RFC 4571)."""
    return b"".join(_LENGTH.pack(len(packet)) + packet for packet in packets)


def read_framed(connection: socket.socket) -> bytes:
    """Return the next packet of a TCP connection; empty at its end."""
    length = _exactly(connection, _LENGTH.size)
    return _exactly(connection, _LENGTH.unpack(length)[0]) if length else b""


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            return b""
        data += chunk
    return data


class TcpBridge:
    """Lets a player that supports UDP only use the service's TCP candidate; a context manager.

    Checks do not contain the addresses of the packets that carry them, so that both ends see an ordinary connection.
    """

    def __init__(self) -> None:
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._tcp: socket.socket | None = None
        self._player: tuple[str, int] | None = None
        self._ended = False

    def __enter__(self) -> TcpBridge:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended = True
        with suppress(OSError):
            self._udp.sendto(b"", self._udp.getsockname())
        if self._tcp is not None:
            with suppress(OSError):
                self._tcp.shutdown(socket.SHUT_RDWR)
            self._tcp.close()
        self._udp.close()

    def redirected(self, answer: str) -> str:
        """Connect to the first TCP candidate of an answer; return the answer with the bridge as its only candidate."""
        candidate = re.search(r"a=candidate:\S+ 1 tcp \d+ (\S+) (\d+) typ host tcptype passive", answer)
        assert candidate is not None, answer
        self._tcp = socket.create_connection((candidate[1], int(candidate[2])), LIMIT_S)
        self._tcp.settimeout(None)
        for target in (self._to_service, self._to_player):
            threading.Thread(target=target, args=(self._tcp,), daemon=True).start()
        own = f"a=candidate:1 1 udp 1 127.0.0.1 {self._udp.getsockname()[1]} typ host\r\n"
        return re.sub(r"(a=candidate:.*\r\n)+", own, answer)

    def _to_service(self, tcp: socket.socket) -> None:
        with suppress(OSError):
            while True:
                data, self._player = self._udp.recvfrom(4096)
                if self._ended:
                    return
                tcp.sendall(framed(data))

    def _to_player(self, tcp: socket.socket) -> None:
        with suppress(OSError):
            while data := read_framed(tcp):
                if self._player is not None:
                    self._udp.sendto(data, self._player)
