"""The entry point of ``vision-infer``: it turns each error into one line and an exit status."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from vision_infer.core.errors import VisionInferError

INTERNAL_ERROR = 70
"""The exit status of an internal error (EX_SOFTWARE in sysexits.h)."""

READER_GONE = 141
"""The exit status when the reader of standard output has gone, as after SIGPIPE. No error is printed."""


def main() -> NoReturn:
    """Run the command and exit with its status (``docs/reference/cli.md`` lists them)."""
    try:
        _run()
    except KeyboardInterrupt:  # also while modules are being imported
        leave(130)


def _run() -> NoReturn:
    import typer

    from vision_infer.cli.app import app

    debug = "--debug" in sys.argv[1:]
    # --debug is accepted anywhere on the line, because people type `vision-infer run --debug`.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        status = app(arguments, prog_name="vision-infer", standalone_mode=False)
        sys.stdout.flush()
        leave(status if isinstance(status, int) else 0)
    except VisionInferError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            leave(READER_GONE)
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        leave(error.exit_status)
    except BrokenPipeError:
        leave(READER_GONE)
    except typer.Abort:
        leave(130)
    except Exception as error:
        if debug:
            raise
        typer.echo(_usage_or_internal(error), err=True)
        leave(getattr(error, "exit_code", INTERNAL_ERROR))


def leave(status: int) -> NoReturn:
    """Exit immediately: all files are closed, and shutting down the thread pools of the runtimes only takes time."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        pass
    os._exit(status)


def _usage_or_internal(error: Exception) -> str:
    # Errors of the option parser have a message and an exit code.
    format_message = getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        return str(format_message() if format_message is not None else error)
    if format_message is not None:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "vision-infer"
        text = " ".join(str(format_message()).split()).rstrip(".")
        return f"error: {text}: see '{command} --help'"
    return f"error: unexpected {type(error).__name__}: {error}: run the command again with --debug and report this"


if __name__ == "__main__":
    main()
