"""Explains a response of an RTSP server that is not successful."""

from __future__ import annotations

from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.redact import redact
from vision_infer.stream.rtsp.message import RtspAnswer


class ServerStatusError(Exception):
    """The status code of a response, as the cause of the error that explains it.

    Args:
        status: The status code.
        realm: The realm that the server has asked a password for; empty if it has asked for none.
    """

    def __init__(self, status: int, realm: str = "") -> None:
        super().__init__(f"RTSP status {status}")
        self.status = status
        self.realm = realm


class TransportRefusedError(RefusedError):
    """The server does not offer the transport that was requested (461)."""


def refusal(shown: str, method: str, answer: RtspAnswer, transport: str) -> StreamError:
    """Return the error for a response with a status of 300 or more.

    Args:
        shown: The URL without secrets.
        method: The method of the request.
        answer: The response.
        transport: The transport that was requested: ``TCP``, ``UDP``, or ``neither TCP nor UDP`` if both were in vain.
    """
    status, reason = answer.status, redact(answer.reason[:80])
    if status == 461:
        if transport not in ("TCP", "UDP"):
            return TransportRefusedError(
                f"{shown}: the server offers RTSP over {transport} (461)", "Check the URL and the server."
            )
        other = "tcp" if transport == "UDP" else "udp"
        hint = f"Set transport: {other} for this stream (doctor: --transport {other})."
        return TransportRefusedError(f"{shown}: the server does not offer RTSP over {transport} (461)", hint)
    if status == 403:
        return RefusedError(f"{shown}: authentication failed (403)", "Check the user name and password (URL or `credentials`).")
    if status == 404:
        return RefusedError(f"{shown}: the server has no such stream (404)", "Check the path in the URL.")
    if status == 453 or status >= 500:
        return StreamError(f"{shown}: the server failed: {method} returned {status} {reason}", "Check the server's log.")
    return RefusedError(f"{shown}: the server rejected {method}: {status} {reason}", "Check the URL and the transport.")
