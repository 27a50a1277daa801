"""Every error that a user can meet, as one tree.

    VisionInferError            exit status 1
    ├── StreamError             1   a source cannot be opened or fails while it is read
    │   └── RefusedError        1   the server refused: an immediate retry would not help
    ├── UsageError              2   invalid options or arguments
    ├── ModelError              3   unknown model, not a deployment graph, invalid card
    │   └── FixedBatchError     3   the model runs at one batch size only
    ├── MissingPackageError     2   an optional package is not installed
    ├── EngineError             4   missing runtime, unknown engine or device, failure at run time
    │   └── DeviceLostError     6   no later work of this process can succeed on the device
    └── OutputError             5   an output exists or cannot be written

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
    """A camera or server refused, for example the password or the path. An immediate retry would not help."""


class UsageError(VisionInferError):
    """Options or arguments that do not fit together."""

    exit_status = 2


class MissingPackageError(UsageError):
    """An optional package is not installed."""


class ModelError(VisionInferError):
    """A model is unknown, is not a deployment graph, or has an invalid card."""

    exit_status = 3


class FixedBatchError(ModelError):
    """A model runs at one batch size only."""


class EngineError(VisionInferError):
    """A runtime is missing, an engine or device is unknown, or an engine fails while it runs."""

    exit_status = 4
    device_lost = False
    """Whether no later work of this process can succeed on the device."""


class DeviceLostError(EngineError):
    """A GPU has failed or is gone, and this process cannot use it again. A new process may be able to."""

    exit_status = 6
    device_lost = True


class OutputError(VisionInferError):
    """An output exists already, cannot be written, or breaks while it is written."""

    exit_status = 5
