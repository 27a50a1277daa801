"""Finds the sources that command-line arguments name, and opens them."""

from __future__ import annotations

import glob
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from vision_infer.config.stream_url import check_url, is_camera, name_of
from vision_infer.core.errors import StreamError
from vision_infer.core.geometry import Size
from vision_infer.stream.redact import printable, redact
from vision_infer.stream.source import MAX_LIVE_PIXELS, ReadOptions, Source, SourceSpec
from vision_infer.stream.source_list import read_list

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ogv"}
    | {".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg", ".mjpg"}
)
"""The suffixes that are searched for in a folder; a file that is named explicitly may have any suffix."""

STANDARD_INPUT = "-"

_HEADER_BYTES = 1 << 16
"""The part of an image file that is read for its size, bytes."""
_MAX_HEADERS = 100
"""The number of videos whose duration is read."""


class NotFoundError(StreamError):
    """An argument names nothing that can be opened; ``source`` is the argument without secrets."""

    def __init__(self, source: str, message: str, hint: str = "") -> None:
        super().__init__(f"{source}: {message}", hint)
        self.source = source


@dataclass(frozen=True, slots=True)
class FoundSources:
    """The sources that arguments name."""

    specs: tuple[SourceSpec, ...]
    errors: tuple[NotFoundError, ...]
    """The arguments that name nothing that can be opened."""


def find_sources(
    arguments: Iterable[str],
    recursive: bool = False,
    read: ReadOptions = ReadOptions(),  # noqa: B008
    live: bool = False,
) -> FoundSources:
    """Find the sources that arguments name, and give them unique names.

    ``-`` is standard input; ``@LIST`` is a text file with one source per line; ``http://`` and ``https://`` name a file on a
    server; the URL of a camera, ``/dev/videoN`` or its number, and ``test://`` are live sources. A folder gives one stream per
    video file, and one stream for all its images. A pattern (``'cam*/*.mp4'``, ``**`` for any folders) gives the same for the
    files and folders that it matches. A file that does not exist is reported by :func:`open_source`, like any other source that
    fails; if a list names it, the error names the line here.

    Args:
        arguments: The arguments as typed; file names may contain any bytes.
        recursive: Whether subfolders are searched; symbolic links are not followed.
        read: The part of each source that is read. Live sources have a lower limit of pixels as well.
        live: Whether URLs of files and video files are live sources too.
    """
    specs: list[SourceSpec] = []
    errors: list[NotFoundError] = []
    names: set[str] = set()
    for argument, line in _with_lists(arguments, errors):
        try:
            found = _named(argument, recursive, line is not None, errors)
            if found[0].paths == (STANDARD_INPUT,) and any(spec.paths == (STANDARD_INPUT,) for spec in specs):
                raise NotFoundError("standard input", "it is named twice", "it can be read only once")
        except NotFoundError as error:
            errors.append(error if line is None else NotFoundError(line, error.message, error.hint))
            continue
        for spec in found:
            name = unique_name(printable(spec.name), names)
            names.add(name)
            kind = "live" if live and spec.kind == "video" and spec.paths != (STANDARD_INPUT,) else spec.kind
            limited = replace(read, max_pixels=min(read.max_pixels, MAX_LIVE_PIXELS)) if kind == "live" else read
            specs.append(replace(spec, name=name, kind=kind, read=limited))
    return FoundSources(tuple(specs), tuple(errors))


def open_source(spec: SourceSpec, decode_threads: int = 1, stopping: threading.Event | None = None) -> Source:
    """Open a source, which is a context manager.

    Args:
        spec: The source.
        decode_threads: The number of decoder threads.
        stopping: Ends the waits of a live source when it is set.

    Raises:
        StreamError: It cannot be opened; the message gives the reason.
    """
    if spec.kind == "live":
        stopping = stopping or threading.Event()
        if spec.paths[0].startswith("test://"):
            from vision_infer.stream.live.pattern_source import PatternSource

            return PatternSource(spec, stopping)
        from vision_infer.stream.live.live_source import LiveSource

        return LiveSource(spec, decode_threads, stopping)
    if spec.kind == "images":
        from vision_infer.stream.files.images import ImagesSource

        return ImagesSource(spec)
    from vision_infer.stream.files.video_file import VideoFileSource

    return VideoFileSource(spec, decode_threads)


def size_in_header(spec: SourceSpec) -> Size | None:
    """Return the coded size that a file's header declares, without decoding. Later frames may differ.

    Returns:
        The size in pixels; None if it is unknown or not quickly available: a URL, standard input, or an unreadable file.
    """
    path = spec.paths[0]
    try:
        if not Path(path).is_file():
            return None
        if spec.kind == "images":
            from vision_infer.stream.image_size import image_size

            with Path(path).open("rb") as file:
                return image_size(file.read(_HEADER_BYTES))
        with open_source(replace(spec, kind="video", decode="cpu")) as source:
            return source.info.size
    except (OSError, ValueError, StreamError):  # reading it later reports the reason
        pass
    return None


def last_at_least(specs: Sequence[SourceSpec], seconds: float) -> bool:
    """Return whether sources together last at least some seconds: live ones always do, images have no duration.

    The headers of at most 100 videos are read; a video of unknown duration counts as 0 s.
    """
    if any(spec.kind == "live" for spec in specs):
        return True
    total = 0.0
    for spec in [spec for spec in specs if spec.kind == "video"][:_MAX_HEADERS]:
        with suppress(OSError, ValueError, StreamError):  # reading it later reports the reason
            if Path(spec.paths[0]).is_file():
                with open_source(replace(spec, decode="cpu")) as source:
                    total += source.info.duration_s or 0.0
        if total >= seconds:
            return True
    return False


def _with_lists(arguments: Iterable[str], errors: list[NotFoundError]) -> Iterator[tuple[str, str | None]]:
    """Yield every argument, and those of lists with the list's name and line number."""
    for argument in arguments:
        if not argument.startswith("@") or os.path.lexists(argument):
            yield argument, None
            continue
        try:
            lines = read_list(argument[1:])
        except StreamError as error:
            errors.append(NotFoundError(redact(argument), error.message, error.hint))
            continue
        if not lines:
            errors.append(NotFoundError(redact(argument), "the list is empty", "Write one source on each line."))
        for number, line in lines:
            place = f"{redact(argument[1:])}:{number}"
            if "\0" in line or line.startswith("@"):
                errors.append(NotFoundError(place, "not a valid source", "Write a file, folder, pattern or URL on each line."))
            else:
                yield line, place


def _named(argument: str, recursive: bool, must_exist: bool, errors: list[NotFoundError]) -> list[SourceSpec]:
    """Return the sources that one argument names, at least one. Unreadable subfolders are added to the errors.

    Raises:
        NotFoundError: It names none.
    """
    shown = redact(argument)
    if argument == STANDARD_INPUT:
        return [SourceSpec("stdin", "video", (STANDARD_INPUT,))]
    device = f"/dev/video{argument}"
    camera = device if argument.isdecimal() and not os.path.lexists(argument) else argument
    if is_camera(camera):
        try:
            check_url(camera)
        except ValueError as error:
            raise NotFoundError(shown, str(error), "Check the URL.") from None
        return [SourceSpec(name_of(camera), "live", (camera,))]
    if "://" in argument and not os.path.lexists(argument):
        return [SourceSpec(_name_of_url(argument), "video", (argument,))]
    if os.path.isdir(argument):  # Path.is_dir raises an error if a name is too long
        try:
            found = _of_files(_files_in(argument, recursive, errors))
        except OSError as error:
            raise _unreadable(argument, error) from error
        if not found:
            hint = "" if recursive else "Use --recursive to search its subfolders."
            raise NotFoundError(shown, "the folder contains no video or image", hint)
        return found
    if glob.has_magic(argument) and not os.path.lexists(argument):
        return _matching(argument, recursive, errors)
    if must_exist and not os.path.lexists(argument):
        raise NotFoundError(shown, "no such file", "Check the path; it is relative to the current folder.")
    return [SourceSpec(_stem(argument), _kind(argument), (argument,))]


def _matching(pattern: str, recursive: bool, errors: list[NotFoundError]) -> list[SourceSpec]:
    shown = redact(pattern)
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise NotFoundError(shown, "no file matches the pattern", "Check the pattern and the current folder.")
    suffix = os.path.splitext(pattern)[1]
    any_suffix = not suffix or glob.has_magic(suffix)
    files: list[str] = []
    for match in matches:
        if os.path.isdir(match):
            if "**" in pattern:  # the files of the folder are matches themselves
                continue
            try:
                files += _files_in(match, recursive, errors)
            except OSError as error:
                errors.append(_unreadable(match, error))
        elif not any_suffix or _is_known(match):
            files.append(match)
    found = _of_files(dict.fromkeys(files))
    if not found:
        raise NotFoundError(shown, "no video or image matches the pattern", "End it with a suffix to match files of any kind.")
    return found


def _files_in(folder: str, recursive: bool, errors: list[NotFoundError]) -> list[str]:
    """Return the videos and images of a folder, sorted by name, folder by folder.

    Raises:
        OSError: It cannot be read. Unreadable subfolders are added to the errors.
    """
    files: list[str] = []
    below: list[str] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_file():
            if _is_known(entry.path):
                files.append(entry.path)
        elif recursive and entry.is_dir(follow_symlinks=False):  # links may form loops
            below.append(entry.path)
    for path in below:
        try:
            files += _files_in(path, recursive, errors)
        except OSError as error:
            errors.append(_unreadable(path, error))
    return files


def _unreadable(folder: str, error: OSError) -> NotFoundError:
    return NotFoundError(redact(folder), f"cannot be read: {error.strerror}", "Check its permissions.")


def _of_files(files: Iterable[str]) -> list[SourceSpec]:
    """Return a stream for each video, and one for the images of each folder."""
    specs: list[SourceSpec] = []
    images: dict[str, list[str]] = {}
    for file in files:
        if _kind(file) == "images":
            images.setdefault(os.path.dirname(file), []).append(file)
        else:
            specs.append(SourceSpec(_stem(file), "video", (file,)))
    for folder, paths in images.items():
        specs.append(SourceSpec(Path(folder).resolve().name or "images", "images", tuple(paths), folder=True))
    return specs


def _is_known(path: str) -> bool:
    return Path(path).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _kind(path: str) -> Literal["video", "images"]:
    return "images" if Path(path).suffix.lower() in IMAGE_SUFFIXES else "video"


def _stem(path: str) -> str:
    if re.search(r"[^/\\]:.*@", path) and not os.path.lexists(path):  # a mistyped URL with a password
        return "stream"
    return Path(path).stem or "stream"


def _name_of_url(url: str) -> str:
    """Return the last part of a URL's path, or its host: neither of them is a password or a parameter."""
    try:
        parts = urlsplit(url)
        if "@" in parts.path:  # an unescaped "/" in a password
            return "stream"
        return redact(Path(unquote(parts.path)).stem or parts.hostname or "stream")
    except ValueError:  # such as an IPv6 address that is not closed
        return "stream"


def unique_name(name: str, names: set[str]) -> str:
    """Return the name of another stream: ``clip``, or ``clip-2`` if a stream is called ``clip`` already."""
    if name not in names:
        return name
    number = 2
    while f"{name}-{number}" in names:
        number += 1
    return f"{name}-{number}"
