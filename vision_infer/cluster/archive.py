"""``run --cluster``: an archive of video files on the nodes of a Ray cluster, with Ray Data.

Ray Data hands batches of files to a pool of actors, one for each node, and repeats the batch of a node that is lost. Sources and
outputs are URLs of fsspec: ``s3://``, ``gs://``, ``file://``, or folders that all nodes share. The outputs of a file have names
that depend on the file only, so that a repeated batch writes the same objects, and ``--resume`` skips what is complete.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from vision_infer.config.run import RunSettings
from vision_infer.core.errors import UsageError, VisionInferError
from vision_infer.pipeline.runs.offline import run
from vision_infer.stream.find import VIDEO_SUFFIXES, unique_name
from vision_infer.stream.redact import printable, redact

BATCH = 4
"""The number of files that an actor reads with one engine."""
LINE_S = 5.0
"""The time between two lines of progress, seconds."""
_DEFAULT_FORMATS = ("jsonl", "mp4")

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A video file of an archive."""

    name: str
    """The name of its stream and outputs, unique in the archive, as on one machine."""
    url: str


@dataclass(slots=True)
class ArchiveProgress:
    """The progress of a run over an archive."""

    files: int
    done: int = 0
    frames: int = 0
    errors: list[str] = field(default_factory=list)
    """The files that failed, one line each, without secrets."""
    seconds: float = 0.0

    @property
    def line(self) -> str:
        """The progress as one line."""
        left = f", {self.seconds / self.done * (self.files - self.done):.0f} s left" if 0 < self.done < self.files else ""
        failed = f", {len(self.errors)} failed" if self.errors else ""
        return f"{self.done}/{self.files} files, {self.frames} frames{failed} in {self.seconds:.1f} s{left}"


def run_archive(settings: RunSettings, on_progress: Callable[[ArchiveProgress], None]) -> ArchiveProgress:
    """Infer all video files of an archive on the connected cluster.

    Args:
        settings: The settings of the run: ``sources`` are files and folders, ``out`` is one folder.
        on_progress: Called every few seconds, and at the end.

    Raises:
        UsageError: The settings cannot be used on a cluster.
        VisionInferError: No file was found, an output exists, or the cluster has no node with a CPU.
    """
    out = _checked_out(settings)
    files = list(find_files(settings.sources, settings.recursive))
    if not files:
        raise VisionInferError("nothing to read: no video file was found", "Give video files or folders; see --recursive.")
    present = _present(out)
    complete = [file for file in files if present.issuperset(_outputs(file.name, settings))]
    if complete and not settings.resume and not settings.overwrite:
        raise UsageError(f"{redact(out)}: has outputs of {complete[0].name}", "Add --resume or --overwrite.")
    todo = [file for file in files if not settings.resume or file not in complete]
    progress = ArchiveProgress(len(todo))
    began_s = shown_s = time.monotonic()
    for row in _rows(todo, settings, out) if todo else ():
        progress.done += 1
        progress.frames += int(row["frames"])
        if row["error"]:
            progress.errors.append(f"{row['name']}: {row['error']}")
        progress.seconds = time.monotonic() - began_s
        if time.monotonic() - shown_s >= LINE_S:
            shown_s = time.monotonic()
            on_progress(progress)
    on_progress(progress)
    return progress


def find_files(sources: tuple[str, ...], recursive: bool) -> Iterator[ArchiveFile]:
    """Yield the video files of files and folders, sorted by name, with the names that they have on one machine.

    Raises:
        VisionInferError: A source does not exist or cannot be listed.
    """
    names: set[str] = set()
    for source in sources:
        try:
            system, root = fsspec.url_to_fs(source)
            paths = list(_files_in(system, root, recursive)) if system.isdir(root) else [root] if system.exists(root) else []
        except (OSError, ValueError, ImportError) as error:
            raise VisionInferError(f"{redact(source)}: cannot be listed: {error}", "Check the URL and its credentials.") from None
        if not paths:
            raise VisionInferError(f"{redact(source)}: contains no video file", "Use --recursive to search subfolders.")
        for path in paths:
            name = unique_name(printable(PurePosixPath(path).stem), names)
            names.add(name)
            yield ArchiveFile(name, system.unstrip_protocol(path))


def _files_in(system: Any, folder: str, recursive: bool) -> Iterator[str]:
    entries = sorted(system.ls(folder, detail=True), key=lambda entry: str(entry["name"]))
    shown = [entry for entry in entries if not PurePosixPath(entry["name"]).name.startswith(".") and entry["name"] != folder]
    for entry in shown:
        if entry["type"] == "file" and PurePosixPath(entry["name"]).suffix.lower() in VIDEO_SUFFIXES:
            yield entry["name"]
    for entry in shown:
        if recursive and entry["type"] == "directory" and not entry.get("islink"):
            yield from _files_in(system, entry["name"], recursive)


def _checked_out(settings: RunSettings) -> str:
    if len(settings.out) != 1 or not (settings.out[0].endswith("/") or os.path.isdir(settings.out[0])):
        raise UsageError("--cluster: needs one --out that is a folder", "Write --out s3://BUCKET/FOLDER/ or --out FOLDER/")
    for name in ("crops", "counts", "rotate_mb", "duration"):
        if getattr(settings, name) is not None:
            raise UsageError(f"--cluster: cannot be combined with --{name.replace('_', '-')}", "Leave one of them out.")
    if settings.live:
        raise UsageError("--cluster: cannot be combined with --live", "Use: vision-infer serve --cluster")
    return settings.out[0]


def _outputs(name: str, settings: RunSettings) -> list[str]:
    """Return the names of the outputs of a file."""
    return [f"{name}.{suffix.lower().lstrip('.')}" for suffix in settings.formats or _DEFAULT_FORMATS]


def _present(out: str) -> set[str]:
    system, folder = fsspec.url_to_fs(out)
    try:
        return {PurePosixPath(path).name for path in system.ls(folder, detail=False)}
    except FileNotFoundError:
        return set()


def _rows(files: list[ArchiveFile], settings: RunSettings, out: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each file when it is done."""
    cpus = [int(node["Resources"]["CPU"]) for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not cpus:
        raise VisionInferError("the cluster has no node with a CPU", "Add nodes with: ray start --address HOST:PORT")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    items = [{"name": file.name, "url": file.url} for file in files]
    found = ray.data.from_items(items, override_num_blocks=-(-len(items) // BATCH)).map_batches(
        FileReader,
        fn_constructor_args=(settings, out),
        batch_size=BATCH,
        num_cpus=min(cpus),  # an actor uses all cores of the smallest node
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=sum(count // min(cpus) for count in cpus)),
    )
    yield from found.iter_rows()


class FileReader:
    """Infers batches of files, on one node.

    Args:
        settings: The settings of the run.
        out: The URL of the folder of the outputs.
    """

    def __init__(self, settings: RunSettings, out: str) -> None:
        from vision_infer.stream.image_size import limit_opencv

        os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it to the number of CPUs of the actor
        limit_opencv(settings.max_pixels)  # before cv2 is imported
        self._settings = settings
        self._out = out

    def __call__(self, batch: Columns) -> Columns:
        """Infer the files ``name`` and ``url``; return ``name``, ``frames``, and ``error``, which is empty on success."""
        files = [ArchiveFile(str(name), str(url)) for name, url in zip(batch["name"], batch["url"], strict=True)]
        folder = Path(tempfile.mkdtemp(prefix="vision-infer-archive-"))
        try:
            frames, errors = self._read(files, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return {
            "name": batch["name"],
            "frames": np.array([frames.get(file.name, 0) for file in files]),
            "error": np.array([errors.get(file.name, "") for file in files]),
        }

    def _read(self, files: list[ArchiveFile], folder: Path) -> tuple[dict[str, int], dict[str, str]]:
        errors: dict[str, str] = {}
        local: list[str] = []
        for file in files:
            try:
                local.append(_fetch(file, folder / "in"))
            except (OSError, ValueError, ImportError) as error:
                errors[file.name] = redact(f"{file.url}: cannot be read: {error}")
        if not local:
            return {}, errors
        outputs = folder / "out"
        outputs.mkdir()
        update = {"sources": tuple(local), "out": (f"{outputs}/",), "overwrite": True, "resume": False}
        summary = run(self._settings.model_copy(update=update), threading.Event())
        frames: dict[str, int] = {}
        for source in summary.sources:
            name = source["name"]
            frames[name] = source["frames"]
            if source["error"]:
                errors[name] = source["error"]
                continue
            for output in _outputs(name, self._settings):
                if (outputs / output).exists():
                    _store(outputs / output, self._out)
        return frames, errors


def _fetch(file: ArchiveFile, folder: Path) -> str:
    """Return the path of a file of this machine that has the name of the stream."""
    folder.mkdir(exist_ok=True)
    system, path = fsspec.url_to_fs(file.url)
    local = folder / f"{file.name}{PurePosixPath(path).suffix}"
    if "file" in _protocols(system):
        os.symlink(path, local)
    else:
        system.get_file(path, str(local))
    return str(local)


def _store(path: Path, out: str) -> None:
    """Write an output as a whole: an object appears when it is complete, and a file gets its name then."""
    system, folder = fsspec.url_to_fs(out)
    target = f"{folder.rstrip('/')}/{path.name}"
    if "file" not in _protocols(system):
        system.put_file(str(path), target)
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    partial = Path(folder) / f".{path.name}.{os.getpid()}.partial"
    shutil.copyfile(path, partial)
    partial.replace(target)


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)
