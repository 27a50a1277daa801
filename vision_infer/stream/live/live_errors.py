"""Explains why a live source cannot be opened, or why reading it failed."""

from __future__ import annotations

from typing import NoReturn

import av

from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.files.open_video import reason
from vision_infer.stream.source import LiveOptions

TIMED_OUT = 0.9
"""The part of the timeout after which a failure to open counts as a timeout, whatever error FFmpeg returns."""


def raise_live_error(
    error: Exception, shown: str, log: SourceLog, options: LiveOptions, took_s: float = 0.0, doing: str = "cannot be opened"
) -> NoReturn:
    """Raise the error that explains a library's error.

    Args:
        error: The library's error.
        shown: The name of the source, without secrets.
        log: The FFmpeg log of the source.
        options: The options of the source.
        took_s: The time until it failed, seconds.
        doing: What failed, for errors without a better explanation.

    Raises:
        RefusedError: Trying again at once is useless.
        StreamError: Any other failure.
    """
    refused, message, hint = _explain(error, log, options, took_s, doing)
    failure = (RefusedError if refused else StreamError)(f"{shown}: {message}", hint)
    if "://" in shown:
        raise failure from None  # the library's error holds the whole URL, and a traceback would show it
    raise failure from error


def _explain(error: Exception, log: SourceLog, options: LiveOptions, took_s: float, doing: str) -> tuple[bool, str, str]:
    """Return whether the server refused, what failed, and what to do."""
    timed_out = isinstance(error, av.error.ExitError | TimeoutError) or took_s >= TIMED_OUT * options.open_timeout_s
    answered = _explain_answer(error, log, options)
    if answered is not None:
        return answered
    if log.contains("Failed to resolve hostname"):
        return False, "the host name cannot be resolved", "Check the host name and the DNS settings of this machine."
    if isinstance(error, ConnectionRefusedError):
        return False, "connection refused", "Check that the camera is on and that the port is correct."
    if isinstance(error, av.error.ProtocolNotFoundError) and not log.contains("not on whitelist"):
        return True, "this build of FFmpeg does not support the protocol", "Install a PyAV build that supports it."
    if log.contains("not on whitelist", "not in allowed"):
        return True, "it leads to a protocol or format that is not allowed", "Use the URL of the stream itself."
    if timed_out:
        return False, f"no answer within {options.open_timeout_s:g} s", "Check that it is on and reachable from this machine."
    if isinstance(error, FileNotFoundError):
        return False, "no such file or device", "Check the path."
    if isinstance(error, PermissionError):
        return False, "permission denied", "Check the permissions of the user that runs this program, and the firewall."
    if isinstance(error, av.error.InvalidDataError):
        return False, "FFmpeg cannot read it as video", "Check that the URL is the URL of a stream."
    return False, f"{doing}: {reason(error)}", "Check the address and the server."


def _explain_answer(error: Exception, log: SourceLog, options: LiveOptions) -> tuple[bool, str, str] | None:
    """Return the same for a status code of the server; None if it sent none."""
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        status = 401 if isinstance(error, av.error.HTTPUnauthorizedError) else 403
        return True, f"authentication failed ({status})", "Check the user name and password (URL or `credentials`)."
    if isinstance(error, av.error.HTTPNotFoundError):
        return True, "the server has no such stream (404)", "Check the path in the URL."
    if log.contains("method SETUP failed: 461"):
        used, other = ("UDP", "tcp") if options.transport == "udp" and not options.allow_networks else ("TCP", "udp")
        hint = f"Set transport: {other} for this stream (doctor: --transport {other})."
        if options.allow_networks:
            hint = "UDP is not used while service.allow_networks limits the URL."
        return True, f"the server does not offer RTSP over {used} (461)", hint
    if isinstance(error, av.error.HTTPClientError):
        return True, f"the server rejected the request: {reason(error)}", "Check the URL and the transport."
    if isinstance(error, av.error.HTTPServerError):
        return False, f"the server failed: {reason(error)}", "Check the server's log."
    return None
