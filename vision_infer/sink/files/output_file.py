"""Output files: they are written under a temporary name, and get their final name when they are whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vision_infer.core.errors import OutputError
from vision_infer.sink.space import NoSpaceError, is_full


def partial_path(path: Path) -> Path:
    """Return the temporary name of an output."""
    return path.with_name(f".{path.name}.partial")


def output_error(path: str | Path, error: OSError) -> OutputError:
    """Return the error for an output that the system refuses."""
    if is_full(error):
        return NoSpaceError(path)
    return OutputError(f"{path}: cannot be written: {error.strerror or error}", "Choose another path with --out.")


class OutputFile:
    """The temporary file of an output, open for writing.

    Args:
        path: The final path of the output.
        overwrite: Whether an existing file may be replaced.
        resume: Whether an existing temporary file is continued.

    Raises:
        OutputError: The output exists already, or cannot be written.
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
                # A killed run left it. It is removed, not truncated: if that run still lives, the two write different files.
                with suppress(FileNotFoundError):
                    self.partial.unlink()
                self.raw = open(self.partial, "xb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise output_error(path, error) from error
        self._identity = _identity(os.fstat(self.raw.fileno()))

    def commit(self) -> None:
        """Give the whole file its final name.

        Raises:
            OutputError: That is not possible; the temporary file stays, if it is still this one.
        """
        hint = f"the data is in {self.partial}"
        try:
            self.raw.close()
            if not self._is_ours():
                raise OutputError(
                    f"{self.path}: the temporary file {self.partial.name} was removed or replaced during the run",
                    "Check whether another run writes the same output.",
                )
            if self._overwrite:
                os.replace(self.partial, self.path)
            else:
                _move_to_new(self.partial, self.path)
        except FileExistsError as error:
            raise OutputError(f"{self.path}: another program created this file during the run", hint) from error
        except OSError as error:
            raise OutputError(f"{self.path}: cannot get its final name: {error.strerror or error}", hint) from error

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
    """Rename, but never over a file that was created meanwhile.

    Raises:
        FileExistsError: There is one.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: a short race remains
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(partial, path)
    else:
        os.unlink(partial)


def check_new_folder(path: Path) -> None:
    """Refuse a folder that contains something, even if files may be overwritten: its labels may have been corrected by hand.

    Raises:
        OutputError: It is not empty, or could not be created.
    """
    if path.is_dir() and any(path.iterdir()):
        raise OutputError(f"{path}: exists already", "A dataset is never overwritten. Choose another folder, or remove this one.")
    check_output(path / "images", True)


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse, before any work, an output that could not be put in its place.

    Raises:
        OutputError: It exists and may not be overwritten, is a folder, or its parent is not a folder.
    """
    try:
        there, folder = path.exists(), path.is_dir()
    except OSError as error:  # a name that is too long, links in a circle
        raise output_error(path, error) from error
    if folder:
        raise OutputError(f"{path}: is a folder", f"For a set of outputs for each source, write --out {path}/.")
    if there and not overwrite:
        raise OutputError(f"{path}: exists already", "Add --overwrite to replace it.")
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise OutputError(f"{path}: {parent} is not a folder", "Choose another path with --out.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {parent} is not writable", "Choose another path with --out.")
