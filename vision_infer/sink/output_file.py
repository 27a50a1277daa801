"""Files are written under a temporary name beside their own, and take their own when they are whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vision_infer.core.errors import OutputError


def output_error(path: str | Path, error: OSError) -> OutputError:
    """The error for an output that the system refuses."""
    return OutputError(f"{path}: cannot be written: {error.strerror or error}", "choose another place with --out")


class OutputFile:
    """The temporary file of an output.

    Args:
        path: where the output will be.
        overwrite: whether a file there may be replaced.

    Raises:
        OutputError: something is there already, or nothing can be written there.
    """

    def __init__(self, path: str, overwrite: bool) -> None:
        self.path = Path(path)
        check_output(self.path, overwrite)
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.partial, "wb"):
                pass
        except OSError as error:
            raise output_error(path, error) from error

    def commit(self) -> None:
        """The file is whole: give it its name."""
        try:
            os.replace(self.partial, self.path)
        except OSError as error:
            raise output_error(self.path, error) from error

    def discard(self) -> None:
        """Remove the temporary file."""
        with suppress(OSError):
            self.partial.unlink()


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse, before any work, an output that could not be put in its place.

    Raises:
        OutputError: it exists and may not be overwritten, is a folder, or lies in something that is no folder.
    """
    try:
        there, folder = path.exists(), path.is_dir()
    except OSError as error:  # a name that is too long, links in a circle
        raise output_error(path, error) from error
    if folder:
        raise OutputError(f"{path}: is a folder", f"for a set of outputs for each source, write --out {path}/")
    if there and not overwrite:
        raise OutputError(f"{path}: exists already", "add --overwrite to replace it")
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise OutputError(f"{path}: {parent} is no folder", "choose another place with --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {parent} is not writable", "choose another place with --out")
