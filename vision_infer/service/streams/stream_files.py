"""Streams that were made over the API, each a file of its own, so that a restart has them again.

A file is whole or it is not there: it is written under another name, brought to the disk, and renamed. Their mode is 0600, for
URLs hold passwords. A file that is broken is told and left alone.
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
from vision_infer.config.serve import STREAM_NAME, ServiceSettings, StreamSettings
from vision_infer.config.yaml_lines import YamlError, compose, plain, read_text
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.model.catalogue import model_dir
from vision_infer.stream.redact import printable

FOLDER = "streams"
_HEAD = "# Made over the API of vision-infer, which writes it anew. Holds the URL's password as it is.\n"

_log = logging.getLogger("vision_infer.service")


def state_folder(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """The folder of what the service remembers, which need not exist.

    Args:
        explicit: ``state_dir`` of the settings; goes before all else.
        environ: the environment; ``VISION_INFER_HOME``/serve where that is set.
    """
    return explicit or model_dir(None, environ).parent / "serve"


class StreamFiles:
    """The files ``STATE_DIR/streams/NAME.yaml``. Whoever calls takes care that changes take turns.

    Args:
        state_dir: as :func:`state_folder` gives it; made when the first stream is kept.
        service: which URLs are taken: what was allowed when it was made may be so no longer.
    """

    def __init__(self, state_dir: Path, service: ServiceSettings) -> None:
        self.folder = state_dir / FOLDER
        self.problems: tuple[str, ...] = ()
        """what was wrong with files when they were read, a line for each; without secrets"""
        self._service = service

    def read(self) -> dict[str, StreamSettings]:
        """All streams that are kept, by name. What cannot be used is logged and stands in ``problems``; its file stays."""
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
            if name.startswith(".") and name.endswith(".partial"):  # of a process that was killed
                with suppress(OSError):
                    path.unlink()
            elif name.endswith(".yaml"):
                try:
                    found[_checked(path.stem)] = self._read(path)
                except UsageError as error:
                    problems.append(printable(error.message))
        for problem in problems:
            _log.warning("a stream that was made over the API is left out: %s", problem)
        self.problems = tuple(problems)
        return found

    def write(self, name: str, settings: StreamSettings) -> None:
        """Keep a stream.

        Raises:
            OutputError: it cannot be written; what was kept before is still there.
            UsageError: the name is no name of a stream.
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
            _to_disk(self.folder)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise _output_error(path, error) from error

    def remove(self, name: str) -> None:
        """Keep a stream no longer; nothing happens where it was not kept.

        Raises:
            OutputError: its file cannot be removed.
            UsageError: the name is no name of a stream.
        """
        path = self._path(name)
        try:
            path.unlink()
            _to_disk(self.folder)
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
            _to_disk(self.folder.parent)

    def _read(self, path: Path) -> StreamSettings:
        if not path.is_file():  # a pipe would be waited for
            raise UsageError(f"{path}: is no file")
        text = read_text(path)
        try:
            node = compose(text)
            data: Any = None if node is None else plain(node)
        except YamlError as error:
            where = f"{path}: line {error.line}" if error.line else f"{path}"
            raise UsageError(f"{where}: {error.message}") from None
        if not isinstance(data, dict):
            raise UsageError(f"{path}: holds no stream")
        try:
            return stream_from_api(data, self._service)
        except UsageError as error:
            raise UsageError(f"{path}: {error.message}") from None


def _checked(name: str) -> str:
    if not re.fullmatch(STREAM_NAME.strip("^$"), name):
        raise UsageError(f"{printable(name)!r} is no name of a stream", "letters, digits, '.', '_', '-'")
    return name


def _write(path: Path, data: bytes) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _to_disk(folder: Path) -> None:
    """Bring what a folder lists to the disk: a rename is not safe from a power failure before."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _output_error(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: the stream cannot be kept: {error.strerror or error}", "what was kept before is still there; see state_dir"
    )
