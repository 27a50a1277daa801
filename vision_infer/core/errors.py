"""Every error that a user can meet, as one tree.

    VisionInferError            exit status 1
    ├── StreamError             1   a source cannot be opened, or breaks while it is read
    │   └── RefusedError        1   it was refused: trying again at once would not help
    ├── UsageError              2   options or arguments that do not fit together
    ├── ModelError              3   unknown model, file that is no deployment graph, wrong card
    ├── EngineError             4   runtime missing, unknown engine or device, failure while it runs
    └── OutputError             5   an output exists, cannot be written, or broke while it was written

A library's exception becomes one of these at the boundary (``raise StreamError(...) from err``). The message names
the thing that failed; the hint says what to do next. Neither may hold a password: URLs go through
:func:`vision_infer.stream.redact.redact` first.
"""

from __future__ import annotations


class VisionInferError(Exception):
    """The base of all errors of this package.

    Args:
        message: One line that says what failed, and names the file, stream, model or option.
        hint: One line, may be empty. A sentence with a capital letter says what to do next; a phrase gives the reason.
    """

    exit_status: int = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())

    def __str__(self) -> str:
        return self.message + (". " if self.hint[:1].isupper() else ": ") + self.hint if self.hint else self.message


class StreamError(VisionInferError):
    """A source cannot be opened, holds no video, or breaks while it is read."""

    exit_status = 1


class RefusedError(StreamError):
    """A camera or server refused: wrong password, no such stream, nothing that can be decoded. Asking again at once is no use."""


class UsageError(VisionInferError):
    """Options or arguments that do not fit together."""

    exit_status = 2


class ModelError(VisionInferError):
    """A model is unknown, is no deployment graph, or its card is wrong."""

    exit_status = 3


class EngineError(VisionInferError):
    """A runtime is missing, an engine or device is unknown, or an engine fails while it runs."""

    exit_status = 4


class OutputError(VisionInferError):
    """An output exists already, cannot be written, or breaks while it is written."""

    exit_status = 5
