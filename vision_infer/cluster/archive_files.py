"""The files of an archive and the folder of its outputs: on a file system that all nodes share, or in object storage (fsspec)."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec

from vision_infer.config.stream_url import is_camera
from vision_infer.core.errors import OutputError, StreamError, UsageError
from vision_infer.stream.files.segments import Segment
from vision_infer.stream.find import VIDEO_SUFFIXES, NotFoundError, find_sources, unique_name
from vision_infer.stream.redact import printable, redact

_STORAGE_ERRORS = (OSError, ValueError, ImportError)
"""What fsspec raises: no access, an unknown protocol, the missing package of a protocol."""
PARTIAL = ".partial"
"""The end of the name of a file that is not complete, on a file system. A lost node leaves such files."""
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A video file of an archive."""

    name: str
    """The name of its stream and outputs, unique in the archive."""
    url: str
    """Its absolute path, or its URL."""
    size: int = 0
    """Its size, bytes; 0 if unknown."""
    version: str = ""
    """What changes with its content: the modification time, or the ETag of an object; empty if unknown."""
    segments: tuple[Segment, ...] = ()
    """The segments in which a long file is read; they are known once a reader has looked at it."""
    part: int | None = None
    """The number of the segment to read. None: the whole file; or if it has segments, their outputs have to be joined."""
    whole: bool = False
    """Whether it must be read as a whole, although it has segments: one of them was not as expected."""

    @property
    def key(self) -> str:
        """The name of this piece of work, unique in the archive."""
        return self.name if self.part is None else f"{self.name}/{self.part}"

    @property
    def identity(self) -> list[Any]:
        """The URL, size and version, as plain values."""
        return [self.url, self.size, self.version]


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The files that arguments name."""

    files: tuple[ArchiveFile, ...]
    errors: tuple[NotFoundError, ...]
    """The arguments that name nothing that can be opened."""


def find_files(sources: Sequence[str], recursive: bool, earlier: dict[str, str]) -> FoundFiles:
    """Find the video files that arguments name, in the order and with the names of a run on one machine.

    Args:
        sources: Files, folders, patterns and lists of this machine, whose paths all nodes must share; URLs of fsspec, which may
            be folders and patterns too; ``http://`` URLs.
        recursive: Whether subfolders are searched.
        earlier: The names in an earlier run by URL. They do not change, even if files with the same name were added.

    Raises:
        UsageError: A source is a camera, standard input, or an image. The images of folders are ignored.
    """
    found: list[ArchiveFile] = []
    errors: list[NotFoundError] = []
    for source in _joined(sources):
        if isinstance(source, str):
            try:
                found += _stored(source, recursive)
            except NotFoundError as error:
                errors.append(error)
            continue
        local = find_sources(source, recursive)
        errors += local.errors
        for spec in local.specs:
            if spec.folder:  # of a folder, the videos are read
                continue
            if spec.kind != "video" or spec.paths == ("-",):
                hint = {"live": "Use: vision-infer serve --cluster", "images": "Run images on one machine."}
                raise UsageError(f"--cluster: {spec.name}: not a video file", hint.get(spec.kind, "Give files or folders."))
            found.append(_local(spec.name, spec.paths[0]))
    names = set(earlier.values())
    files: list[ArchiveFile] = []
    for file in found:
        name = earlier.get(file.url)
        if name is None:
            name = unique_name(file.name, names)
            names.add(name)
        files.append(ArchiveFile(name, file.url, file.size, file.version))
    return FoundFiles(tuple(files), tuple(errors))


def _joined(sources: Sequence[str]) -> Iterator[str | list[str]]:
    """Yield each URL of fsspec, and the sources of this machine between them as one list, so that their names are unique."""
    local: list[str] = []
    for source in sources:
        if not is_stored(source):
            local.append(source)
            continue
        if local:
            yield local
        local = []
        yield source
    if local:
        yield local


def is_stored(source: str) -> bool:
    """Return whether a source is a URL of fsspec: not of a camera, and not one that FFmpeg opens."""
    scheme, found, _ = source.partition("://")
    return bool(found) and scheme not in ("http", "https") and not is_camera(source) and not os.path.lexists(source)


def _local(name: str, path: str) -> ArchiveFile:
    if "://" in path:
        return ArchiveFile(name, path)
    try:
        status = os.stat(path)
    except OSError:  # reading it reports the reason
        return ArchiveFile(name, os.path.abspath(path))
    return ArchiveFile(name, os.path.abspath(path), status.st_size, str(status.st_mtime_ns))


def _stored(source: str, recursive: bool) -> list[ArchiveFile]:
    """Return the files of a URL.

    Raises:
        NotFoundError: It names none, or cannot be listed.
    """
    shown = redact(source)
    try:
        system, root = fsspec.url_to_fs(source)
        if glob.has_magic(root):
            entries = [entry for entry in system.glob(root, detail=True).values() if _is_video(entry)]
        elif system.isdir(root):
            entries = list(_files_in(system, root, recursive))
        else:
            entries = [system.info(root)] if system.exists(root) else []
    except _STORAGE_ERRORS as error:
        raise NotFoundError(shown, f"cannot be listed: {redact(str(error))}", "Check the URL and its credentials.") from None
    if not entries:
        raise NotFoundError(shown, "no video file was found", "" if recursive else "Use --recursive to search its subfolders.")
    files = []
    for entry in entries:
        path = str(entry["name"])
        version = entry.get("ETag") or entry.get("LastModified") or entry.get("mtime") or entry.get("updated") or ""
        url = path if _is_local(system) else system.unstrip_protocol(path)
        files.append(ArchiveFile(printable(PurePosixPath(path).stem), url, int(entry.get("size") or 0), str(version)))
    return files


def _files_in(system: Any, folder: str, recursive: bool) -> Iterator[dict[str, Any]]:
    entries = sorted(system.ls(folder, detail=True), key=lambda entry: str(entry["name"]))
    shown = [entry for entry in entries if not PurePosixPath(entry["name"]).name.startswith(".") and entry["name"] != folder]
    yield from filter(_is_video, shown)
    for entry in shown:
        if recursive and entry["type"] == "directory" and not entry.get("islink"):
            yield from _files_in(system, entry["name"], recursive)


def _is_video(entry: dict[str, Any]) -> bool:
    return entry["type"] == "file" and PurePosixPath(entry["name"]).suffix.lower() in VIDEO_SUFFIXES


def _is_local(system: Any) -> bool:
    return "file" in (system.protocol if isinstance(system.protocol, (tuple, list)) else (system.protocol,))


def fetch(file: ArchiveFile, folder: Path) -> str:
    """Return what a decoder can open: a path of this machine, to which an object is copied first, or an ``http://`` URL.

    Raises:
        StreamError: It cannot be copied.
    """
    if not is_stored(file.url):
        return file.url
    local = folder / f"source{PurePosixPath(file.url).suffix}"
    try:
        system, path = fsspec.url_to_fs(file.url)
        system.get_file(path, str(local))
    except _STORAGE_ERRORS as error:
        text = f"{redact(file.url)}: cannot be read: {redact(str(error))}"
        raise StreamError(text, "Check the URL and the credentials of the node.") from None
    return str(local)


class OutputFolder:
    """The folder of the outputs. A file in it is complete, or is not there.

    Args:
        url: Its absolute path or URL.

    Raises:
        OutputError: Its protocol is unknown, or needs a package that is not installed.
    """

    def __init__(self, url: str) -> None:
        self._shown = redact(url).rstrip("/")
        self._system, root = self._do(lambda: fsspec.url_to_fs(url), "cannot be opened")
        self._root = root.rstrip("/")

    def names(self) -> set[str]:
        """Return the names of all files in it; none if it does not exist.

        Raises:
            OutputError: It cannot be listed.
        """

        def listed() -> set[str]:
            self._system.invalidate_cache()
            try:
                return {PurePosixPath(path).name for path in self._system.ls(self._root, detail=False)}
            except FileNotFoundError:
                return set()

        return self._do(listed, "cannot be listed")

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            OutputError: It cannot be read.
        """
        return self._do(lambda: bytes(self._system.cat_file(f"{self._root}/{name}")), f"{name} cannot be read")

    def load(self, name: str, path: Path) -> None:
        """Copy a file to this machine.

        Raises:
            OutputError: It cannot be read.
        """
        self._do(lambda: self._system.get_file(f"{self._root}/{name}", str(path)), f"{name} cannot be read")

    def write(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises:
            OutputError: It cannot be written.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self.store(path)

    def store(self, path: Path) -> None:
        """Copy a file of this machine as a whole.

        Raises:
            OutputError: It cannot be written.
        """

        def put() -> None:
            if not _is_local(self._system):
                self._system.put_file(str(path), f"{self._root}/{path.name}")
                return
            folder = Path(self._root)
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{path.name}.{os.uname().nodename}-{os.getpid()}{PARTIAL}"
            shutil.copyfile(path, partial)
            partial.replace(folder / path.name)

        self._do(put, f"{path.name} cannot be written")

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that exist.

        Raises:
            OutputError: One of them cannot be removed.
        """
        paths = [f"{self._root}/{name}" for name in names]
        if paths:
            self._do(lambda: self._system.rm(paths), "outputs cannot be removed")

    def _do(self, action: Callable[[], Value], failed: str) -> Value:
        try:
            return action()
        except _STORAGE_ERRORS as error:
            hint = "Check the URL, its credentials and its permissions."
            raise OutputError(f"{self._shown}: {failed}: {redact(str(error))}", hint) from None
