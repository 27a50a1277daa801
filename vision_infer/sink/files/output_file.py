"""Files are written under a temporary name beside their own, and take their own when they are whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vision_infer.core.errors import OutputError
from vision_infer.sink.space import NoSpaceError, is_full


def partial_path(path: Path) -> Path:
    """The temporary name of an output."""
    return path.with_name(f".{path.name}.partial")


def output_error(path: str | Path, error: OSError) -> OutputError:
    """The error for an output that the system refuses."""
    if is_full(error):
        return NoSpaceError(path)
    return OutputError(f"{path}: cannot be written: {error.strerror or error}", "choose another place with --out")


class OutputFile:
    """The temporary file of an output, open for writing.

    Args:
        path: where the output will be.
        overwrite: whether a file there may be replaced.
        resume: whether a temporary file that is there already is gone on with.

    Raises:
        OutputError: something is there already, or nothing can be written there.
    """

    def __init__(self, path: str, overwrite: bool, resume: bool = False) -> None:
        self.path = Path(path)
        check_output(self.path, overwrite)
        self.partial = partial_path(self.path)
        self._overwrite = overwrite
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if resume and self.partial.exists():
                self.raw = open(self.partial, "r+b", buffering=0)  # noqa: SIM115
                self.raw.seek(0, os.SEEK_END)
            else:
                # What a killed run has left. Removed, not emptied: if that run still lives, the two never write into each other.
                with suppress(FileNotFoundError):
                    self.partial.unlink()
                self.raw = open(self.partial, "xb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise output_error(path, error) from error
        self._identity = _identity(os.fstat(self.raw.fileno()))

    def commit(self) -> None:
        """The file is whole: give it its name.

        Raises:
            OutputError: it cannot have it; what was written stays under the temporary name, if that is still ours.
        """
        where = f"what was written is in {self.partial}"
        try:
            self.raw.close()
            if not self._is_ours():
                raise OutputError(
                    f"{self.path}: its temporary file {self.partial.name} was removed or replaced while it was written",
                    "is another run writing the same output?",
                )
            if self._overwrite:
                os.replace(self.partial, self.path)
            else:
                _move_to_new(self.partial, self.path)
        except FileExistsError as error:
            raise OutputError(f"{self.path}: another program made it meanwhile", where) from error
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be put in its place: {error.strerror or error}", where) from error

    def discard(self) -> None:
        """Remove the temporary file."""
        with suppress(OSError):
            self.raw.close()
            if self._is_ours():
                self.partial.unlink()

    def _is_ours(self) -> bool:
        try:
            return _identity(os.lstat(self.partial)) == self._identity
        except FileNotFoundError:
            return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _move_to_new(partial: Path, path: Path) -> None:
    """Rename, but never over a file that came into being meanwhile.

    Raises:
        FileExistsError: there is one.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: there a moment stays in which a file could come into being
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(partial, path)
    else:
        os.unlink(partial)


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
