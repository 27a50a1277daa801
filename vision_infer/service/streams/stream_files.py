"""The stored settings of streams created over the API, one file for each, so that they survive a restart.

Files are replaced atomically: written under a temporary name, synced to disk, and renamed. Their mode is 0600 because URLs
contain passwords. A damaged file is reported and left unchanged.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vision_infer.config.api_stream import stream_from_api
from vision_infer.config.serve import ServiceSettings, StreamSettings
from vision_infer.config.yaml_lines import YamlError, compose, plain, read_text
from vision_infer.config.zones import STREAM_NAME
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.model.catalog import model_dir
from vision_infer.stream.redact import printable

FOLDER = "streams"
_HEAD = "# Created over the API of vision-infer, which overwrites this file. Contains the URL's password in plain text.\n"

_log = logging.getLogger("vision_infer.service")


def state_folder(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the folder of the service's state, which need not exist.

    Args:
        explicit: The setting ``state_dir``, which takes precedence.
        environ: The environment; ``VISION_INFER_HOME``/serve is used if set.
    """
    return explicit or model_dir(None, environ).parent / "serve"


class StreamFiles:
    """The files ``STATE_DIR/streams/NAME.yaml``. Callers must serialize changes.

    Args:
        state_dir: The folder from :func:`state_folder`; created with the first stored stream.
        service: The settings that restrict URLs; they may have changed since a stream was stored.
    """

    def __init__(self, state_dir: Path, service: ServiceSettings) -> None:
        self.folder = state_dir / FOLDER
        self.problems: tuple[str, ...] = ()
        """The problems with files during the last read, one line for each, without secrets."""
        self._service = service

    def read(self) -> dict[str, StreamSettings]:
        """Return all stored streams by name. Invalid files are logged, listed in ``problems``, and left unchanged."""
        found: dict[str, StreamSettings] = {}
        problems: list[str] = []
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            names = []
        except OSError as error:
            names = []
            problems.append(f"{self.folder}: cannot be read: {error.strerror or error}")
        for name in names:
            path = self.folder / name
            if name.startswith(".") and name.endswith(".partial"):  # left by a killed process
                with suppress(OSError):
                    path.unlink()
            elif name.endswith(".yaml"):
                try:
                    found[_checked(path.stem)] = self._read(path)
                except UsageError as error:
                    problems.append(printable(error.message))
        for problem in problems:
            _log.warning("ignoring a stream created over the API: %s", problem)
        self.problems = tuple(problems)
        return found

    def write(self, name: str, settings: StreamSettings) -> None:
        """Store a stream.

        Raises:
            OutputError: The file cannot be written; the previous settings remain stored.
            UsageError: The name is not a valid stream name.
        """
        import yaml

        path = self._path(name)
        data = settings.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        text = _HEAD + yaml.safe_dump(data, sort_keys=False, width=1_000_000)
        partial = path.with_name(f".{path.name}.partial")
        try:
            self._make_folder()
            _write(partial, text.encode())
            os.replace(partial, path)
            _sync_folder(self.folder)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise _output_error(path, error) from error

    def remove(self, name: str) -> None:
        """Remove a stored stream; do nothing if it is not stored.

        Raises:
            OutputError: The file cannot be removed.
            UsageError: The name is not a valid stream name.
        """
        path = self._path(name)
        try:
            path.unlink()
            _sync_folder(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _output_error(path, error) from error

    def _path(self, name: str) -> Path:
        return self.folder / f"{_checked(name)}.yaml"

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self.folder.parent)

    def _read(self, path: Path) -> StreamSettings:
        text = read_text(path)
        try:
            node = compose(text)
            data: Any = None if node is None else plain(node)
        except YamlError as error:
            where = f"{path}: line {error.line}" if error.line else f"{path}"
            raise UsageError(f"{where}: {error.message}") from None
        if not isinstance(data, dict):
            raise UsageError(f"{path}: contains no stream settings")
        try:
            return stream_from_api(data, self._service)
        except UsageError as error:
            raise UsageError(f"{path}: {error.message}") from None


def _checked(name: str) -> str:
    if not re.fullmatch(STREAM_NAME.strip("^$"), name):
        raise UsageError(f"{printable(name)!r} is not a valid stream name", "Use letters, digits, '.', '_', '-'.")
    return name


def _write(path: Path, data: bytes) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Sync a folder to disk, so that a rename in it survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _output_error(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: the stream cannot be stored: {error.strerror or error}", "The stored settings are unchanged. Check state_dir."
    )
