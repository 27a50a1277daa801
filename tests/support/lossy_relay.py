"""A lossy path from the service to a WHEP player: a UDP relay that replaces the candidates of the answer."""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

_CANDIDATE = re.compile(r"^(a=candidate:\S+ \d+ udp \d+) (\d+(?:\.\d+){3}) (\d+) typ host.*$", re.IGNORECASE)
_MAX_BYTES = 65_536
_LOOK_S = 0.1


class LossyRelay:
    """Relays one session, and drops RTP packets to the player; a context manager.

    The player must not reach the service in another way: its own candidates are to be left out of the offer, as
    :func:`without_candidates` does it.

    Args:
        loses: Returns whether the next RTP packet to the player is lost; called on the relay's thread.
    """

    def __init__(self, loses: Callable[[], bool]) -> None:
        self._loses = loses
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.carried = 0
        """The number of RTP packets to the player."""
        self.lost = 0
        """The number of lost ones."""

    def __enter__(self) -> LossyRelay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def answer(self, sdp: str) -> str:
        """Start relaying to the first IPv4 candidate of an answer.

        Returns:
            The answer with the relay as its only candidate.
        """
        assert self._thread is None, "a relay is for one session"
        lines: list[str] = []
        for line in sdp.split("\r\n"):
            match = _CANDIDATE.match(line)
            if match and self._thread is None:
                front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                front.bind((match[2], 0))
                arguments = (front, (match[2], int(match[3])))
                self._thread = threading.Thread(target=self._run, args=arguments, name="lossy-relay", daemon=True)
                self._thread.start()
                lines.append(f"{match[1]} {match[2]} {front.getsockname()[1]} typ host")
            elif not line.startswith("a=candidate:"):
                lines.append(line)
        assert self._thread is not None, "the answer has no candidate over IPv4"
        return "\r\n".join(lines)

    def _run(self, front: socket.socket, service: tuple[str, int]) -> None:
        player: tuple[str, int] | None = None
        with front, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.bind((service[0], 0))
            while not self._ended.is_set():
                for ready in select.select([front, back], [], [], _LOOK_S)[0]:
                    data, sender = ready.recvfrom(_MAX_BYTES)
                    if ready is front:
                        player = sender
                        back.sendto(data, service)
                    elif player is not None and not self._is_lost(data):
                        front.sendto(data, player)

    def _is_lost(self, data: bytes) -> bool:
        if not 127 < data[0] < 192 or 64 <= data[1] & 127 < 96:  # STUN, DTLS, RTCP (RFC 7983, RFC 5761)
            return False
        self.carried += 1
        lost = self._loses()
        self.lost += lost
        return lost


class Outage:
    """Loses all packets during an outage. Its times are monotonic."""

    def __init__(self) -> None:
        self._until = 0.0

    def begin(self, seconds: float) -> float:
        """Start an outage, and return its end."""
        self._until = time.monotonic() + seconds
        return self._until

    def __call__(self) -> bool:
        return time.monotonic() < self._until


def without_candidates(sdp: str) -> str:
    """Return an offer without candidates, so that the player can be reached only by answering it."""
    return "\r\n".join(line for line in sdp.split("\r\n") if not line.startswith(("a=candidate:", "a=end-of-candidates")))
