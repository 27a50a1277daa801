"""What a user names on the command line → the sources to open."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.errors import StreamError
from vision_infer.stream.redact import redact
from vision_infer.stream.source import Source, SourceSpec

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ogv"}
    | {".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg", ".mjpg"}
)
"""what is looked for in a folder; a file that is named itself may have any name"""


@dataclass(frozen=True, slots=True)
class Found:
    """The sources that were named."""

    specs: tuple[SourceSpec, ...]
    errors: tuple[StreamError, ...]
    """what was named and holds nothing to open"""


def find_sources(arguments: Iterable[str]) -> Found:
    """Turn files and folders into sources with unique names.

    A folder gives a stream for each video in it, and one stream for all its pictures. A file that does not exist is left to
    :func:`open_source`, so that it is reported like any other source that fails.
    """
    specs: list[SourceSpec] = []
    errors: list[StreamError] = []
    names: set[str] = set()
    for argument in arguments:
        path = Path(argument)
        if os.path.isdir(path):  # Path.is_dir raises where a name is too long
            try:
                found = _in_folder(path)
            except OSError as error:
                errors.append(StreamError(f"{redact(argument)}: cannot be read: {error.strerror}", "check its permissions"))
                continue
            if not found:
                errors.append(StreamError(f"{argument}: no video or picture in this folder", "its subfolders are not searched"))
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            found = [SourceSpec(_name(argument), "images", (argument,))]
        else:
            found = [SourceSpec(_name(argument), "video", (argument,))]
        for spec in found:
            name = _unique(spec.name, names)
            names.add(name)
            specs.append(SourceSpec(name, spec.kind, spec.paths, spec.folder))
    return Found(tuple(specs), tuple(errors))


def open_source(spec: SourceSpec, decode_threads: int = 1) -> Source:
    """Open a source; it is a context manager.

    Raises:
        StreamError: it cannot be opened; says why.
    """
    if spec.kind == "images":
        from vision_infer.stream.images import ImagesSource

        return ImagesSource(spec)
    from vision_infer.stream.video_file import VideoFileSource

    return VideoFileSource(spec, decode_threads)


def _in_folder(folder: Path) -> list[SourceSpec]:
    files = sorted(entry.path for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    specs = [SourceSpec(Path(file).stem, "video", (file,)) for file in files if Path(file).suffix.lower() in VIDEO_SUFFIXES]
    images = tuple(file for file in files if Path(file).suffix.lower() in IMAGE_SUFFIXES)
    if images:
        specs.append(SourceSpec(folder.resolve().name or "images", "images", images, folder=True))
    return specs


def _name(argument: str) -> str:
    return Path(redact(argument)).stem or "stream"


def _unique(name: str, names: set[str]) -> str:
    if name not in names:
        return name
    number = 2
    while f"{name}-{number}" in names:
        number += 1
    return f"{name}-{number}"
