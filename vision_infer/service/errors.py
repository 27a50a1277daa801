"""The errors with which the service answers a request."""

from __future__ import annotations

from vision_infer.core.errors import UsageError, VisionInferError


class UnknownStreamError(VisionInferError):
    """No stream has this name."""


class ConflictError(VisionInferError):
    """The request conflicts with the current state: a name that is taken, a stream of the configuration file, a limit."""


class UnavailableError(VisionInferError):
    """Something is temporarily unavailable: the stream delivers no frames, or the model is still loading.

    Args:
        message: What is unavailable; one line.
        hint: What to do next.
        state: The state of the stream, if the error concerns one.
        reason: Why the stream is in this state, without secrets.
    """

    def __init__(self, message: str, hint: str = "", state: str = "", reason: str = "") -> None:
        super().__init__(message, hint)
        self.state = state
        self.reason = reason


class ShortageError(UnavailableError):
    """The machine has too few threads or too little memory now."""


class TooManyRequestsError(UnavailableError):
    """Too many requests already wait."""


class DeadlineError(UnavailableError):
    """The time that the client gave for the request is over."""


class UnknownModelError(UsageError):
    """No model has this name."""
