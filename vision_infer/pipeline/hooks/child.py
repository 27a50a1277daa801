"""The process of a hook: ``python -m vision_infer.pipeline.hooks.child FD``.

It receives the name of the hook, imports it and sends None, or what is wrong. Then it receives frames, without their images, and
sends what the hook returns. It asks for the image of a frame if the hook does. It ends with the connection.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from vision_infer.core.errors import UsageError
from vision_infer.pipeline.hooks.checking import checked, file_of, place_of
from vision_infer.pipeline.hooks.frame import HookFrame, NoPixelsError
from vision_infer.pipeline.hooks.loading import Hook, load_hook


def serve_hook(connection: Connection) -> None:
    """Import a hook, and call it until the connection ends."""
    path, name, folder = connection.recv()
    sys.path[:] = path
    try:
        hook = load_hook(name, folder)
    except UsageError as error:
        connection.send(str(error))
        return
    connection.send(None)

    def image() -> Any:
        connection.send(("image",))
        found = connection.recv()
        if found is None:
            raise NoPixelsError("the frame has no pixels")
        return found

    while True:
        fields, shown, result = connection.recv()
        frame = HookFrame(image, *fields)
        frame.shown = shown
        answer = _answer(hook, frame, result)
        try:
            connection.send(answer)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - values of the user that cannot be sent
            connection.send(_error(hook, error))


def _answer(hook: Hook, frame: HookFrame, result: Any) -> tuple[Any, ...]:
    try:
        return ("returned", checked(hook(frame, result), result), frame.shown)  # checked here: anything else may not be sent
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code: the parent reports its errors
        return _error(hook, error)


def _error(hook: Hook, error: BaseException) -> tuple[Any, ...]:
    return ("error", str(error), type(error).__name__, place_of(error, file_of(hook)))


def main() -> None:
    """Serve the hook on the connection whose number is the argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the parent ends this one when it is done
    os.dup2(2, 1)  # what the hook prints must not mix with rows on standard output
    with suppress(EOFError, OSError):
        serve_hook(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
