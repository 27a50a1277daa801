"""Whether packets of this machine reach a service, checked as a browser would: with a STUN request to each announced address.

A request is that of a connectivity check (RFC 8445, section 7.2.4), over UDP or over TCP (RFC 6544, framed as in RFC 4571).
"""

from __future__ import annotations

import re
import secrets
import socket
import struct
import time
from dataclasses import dataclass

from aioice import stun

TIMEOUT_S = 2.0
"""The maximum time for an answer, in seconds."""
_REPEAT_S = 0.25
_PRIORITY = 1 << 24
_CANDIDATE = re.compile(r"a=candidate:\S+ 1 (udp|tcp) \d+ (\S+) (\d+) typ (\w+)", re.IGNORECASE)
_LENGTH = struct.Struct("!H")
_CODECS = {
    96: ("VP8", ""),
    97: ("H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e034"),
    98: ("H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=4d0034"),
    99: ("H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=640034"),
    100: ("H265", "level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST"),
    101: ("VP9", "profile-id=0"),
    102: ("AV1", "level-idx=13;profile=0;tier=0"),
}
"""The codecs of the offer: many, so that the service need not encode."""


@dataclass(frozen=True, slots=True)
class Announced:
    """An address in the answer of a service."""

    protocol: str
    """``udp`` or ``tcp``"""
    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


class ReachabilityCheck:
    """A session that only checks the addresses of a service: it never receives video."""

    def __init__(self) -> None:
        self._user = secrets.token_hex(4)
        self._password = secrets.token_hex(12)
        self._peer_user = self._peer_password = ""

    def offer(self) -> str:
        """Return the SDP offer."""
        fingerprint = ":".join(f"{byte:02X}" for byte in secrets.token_bytes(32))
        lines = [
            "v=0",
            f"o=- {secrets.randbits(32)} 2 IN IP4 127.0.0.1",
            "s=-",
            "t=0 0",
            "a=group:BUNDLE 0",
            f"m=video 9 UDP/TLS/RTP/SAVPF {' '.join(map(str, _CODECS))}",
            "c=IN IP4 0.0.0.0",
            f"a=ice-ufrag:{self._user}",
            f"a=ice-pwd:{self._password}",
            f"a=fingerprint:sha-256 {fingerprint}",
            "a=setup:actpass",
            "a=mid:0",
            "a=recvonly",
            "a=rtcp-mux",
        ]
        for number, (name, parameters) in _CODECS.items():
            lines.append(f"a=rtpmap:{number} {name}/90000")
            if parameters:
                lines.append(f"a=fmtp:{number} {parameters}")
        return "\r\n".join(lines) + "\r\n"

    def read(self, answer: str) -> list[Announced]:
        """Read the SDP answer of the service; return the addresses that it announces.

        Those of TURN servers are left out: they accept packets only after a browser has been permitted.
        """
        self._peer_user = _attribute(answer, "ice-ufrag")
        self._peer_password = _attribute(answer, "ice-pwd")
        found = (_CANDIDATE.match(line) for line in answer.splitlines())
        announced = (Announced(one[1].lower(), one[2], int(one[3])) for one in found if one and one[4] != "relay")
        return list(dict.fromkeys(announced))

    def check(self, announced: Announced, timeout_s: float = TIMEOUT_S) -> float:
        """Send a request to an address; return the time until the answer, in seconds.

        Raises:
            OSError: There was no valid answer: ``TimeoutError``, or the reason of the operating system.
        """
        request = stun.Message(
            stun.Method.BINDING,
            stun.Class.REQUEST,
            attributes={
                "USERNAME": f"{self._peer_user}:{self._user}",
                "PRIORITY": _PRIORITY,
                "ICE-CONTROLLING": secrets.randbits(64),
            },
        )
        key = self._peer_password.encode()
        request.add_message_integrity(key)
        ask = _ask_tcp if announced.protocol == "tcp" else _ask_udp
        began = time.monotonic()
        answer = ask((announced.address, announced.port), bytes(request), timeout_s)
        took_s = time.monotonic() - began
        try:
            message = stun.parse_message(answer)
        except ValueError:
            raise OSError("the answer is not a STUN message") from None
        if message.transaction_id != request.transaction_id or not message.check_message_integrity(key):
            raise OSError("the answer is from another program")
        if message.message_class is not stun.Class.RESPONSE:
            raise OSError(f"the service rejected the request: {message.attributes.get('ERROR-CODE')}")
        return took_s


def _ask_udp(address: tuple[str, int], request: bytes, timeout_s: float) -> bytes:
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(address)
        client.settimeout(_REPEAT_S)
        for _ in range(max(1, round(timeout_s / _REPEAT_S))):
            client.send(request)
            try:
                return client.recv(2048)
            except TimeoutError:
                continue
    raise TimeoutError(f"no answer within {timeout_s:g} s")


def _ask_tcp(address: tuple[str, int], request: bytes, timeout_s: float) -> bytes:
    try:
        with socket.create_connection(address, timeout_s) as client:
            client.sendall(_LENGTH.pack(len(request)) + request)
            with client.makefile("rb") as answers:
                head = answers.read(_LENGTH.size)
                answer = answers.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    except TimeoutError:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    if not answer:
        raise ConnectionResetError("the service closed the connection")
    return answer


def _attribute(sdp: str, name: str) -> str:
    found = re.search(rf"^a={name}:(\S+)", sdp, re.MULTILINE)
    return found[1] if found else ""
