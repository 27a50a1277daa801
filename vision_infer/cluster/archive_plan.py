"""The plan of a run over an archive: its files and their outputs, and what an earlier run has done.

The names of the outputs depend on the file only, and an output appears when it is complete. ``--resume`` therefore lists the
folder of the outputs. It also reads the settings of the earlier run, and the identity and name of each file, from
``.archive.resume`` there; a file that has changed is read again. The outputs of a file that broke contain what was read, as on
one machine; ``.NAME.failed`` next to them makes a resumed run try it again.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_infer.cluster.archive_files import PARTIAL, ArchiveFile, OutputFolder, find_files
from vision_infer.cluster.archive_segments import output_of, part_name
from vision_infer.config.run import RunSettings
from vision_infer.core.errors import OutputError, StreamError, UsageError
from vision_infer.pipeline.runs.outputs import plan_outputs
from vision_infer.pipeline.runs.resume import check_same_settings, results_depend_on
from vision_infer.pipeline.runs.run_factories import Shapes, output_options, read_shape_files
from vision_infer.pipeline.runs.wiring import resolve_models
from vision_infer.stream.files.segments import Segment
from vision_infer.stream.find import NotFoundError
from vision_infer.stream.redact import redact
from vision_infer.stream.source import SourceSpec

STATE = ".archive.resume"
"""The file with the settings and files of a run, in the folder of the outputs."""
_NOT_ON_A_CLUSTER = ("crops", "counts", "rotate_mb", "duration", "telemetry")


@dataclass(frozen=True, slots=True)
class ArchivePlan:
    """The work of a run."""

    out: str
    """The absolute path or the URL of the folder of the outputs."""
    shapes: Shapes
    todo: tuple[ArchiveFile, ...]
    finished: tuple[ArchiveFile, ...]
    """The files that an earlier run has finished."""
    errors: tuple[NotFoundError, ...]
    """The arguments that name nothing that can be opened."""
    outputs: dict[str, tuple[str, ...]]
    """The names of the outputs of each file."""
    parts: frozenset[str]
    """The outputs of segments that an earlier run has read."""

    def read_segments(self, file: ArchiveFile, segments: Sequence[Segment]) -> set[int]:
        """Return the numbers of the segments that an earlier run has read."""
        names = self.outputs[file.name]
        return {
            number for number, segment in enumerate(segments) if self.parts.issuperset(part_name(name, segment) for name in names)
        }


def plan_archive(settings: RunSettings) -> ArchivePlan:
    """Plan a run, remove outputs that do not belong to the present files, and note the files for a later ``--resume``.

    Raises:
        VisionInferError: The settings cannot be used on a cluster, no file was found, the model does not exist, an output exists
            already, or an earlier run had other settings.
    """
    out = _checked_out(settings)
    folder = OutputFolder(out)
    model = next(iter(resolve_models(settings).graphs.values()))
    depends = results_depend_on(settings.model_copy(update={"out": (out,)}), model)
    present = folder.names()
    earlier = _earlier(folder, depends) if settings.resume and STATE in present else None
    names = {} if earlier is None else {identity[0]: name for name, identity in earlier.items()}
    found = find_files(settings.sources, settings.recursive, names)
    if not found.files:
        raise found.errors[0] if found.errors else StreamError("nothing to read", "Give video files or folders.")
    files = found.files
    specs = [SourceSpec(file.name, "video", (file.url,)) for file in files]
    outputs = output_names(specs, settings)
    shapes = read_shape_files(settings, specs)
    if earlier is None:
        there = [name for file in files for name in outputs[file.name] if name in present]
        if there and not settings.overwrite:
            hint = "Add --overwrite to replace it. --resume needs the file .archive.resume of the earlier run."
            raise OutputError(f"{redact(out)}{there[0]}: exists already", hint)
        earlier = {}
    finished = {file.name for file in files if _is_finished(file, earlier, outputs[file.name], present)}
    todo = [file for file in files if file.name not in finished]
    # Nothing old is left for a file that is read, whenever this run is interrupted. The marks of broken files go after outputs.
    folder.remove(present.intersection(name for file in todo for name in outputs[file.name]))
    folder.remove(present.intersection(failed_mark(file.name) for file in todo))
    folder.remove(name for name in present if name.startswith(".") and name.endswith(PARTIAL))
    # The parts of a file that has not changed are used.
    used = {name for file in todo if earlier.get(file.name) == file.identity for name in outputs[file.name]}
    parts = {name for name in present if output_of(name) is not None}
    kept = frozenset(name for name in parts if output_of(name) in used)
    folder.remove(parts - kept)
    state = {"settings": depends, "files": earlier | {file.name: file.identity for file in files}}
    folder.write(STATE, json.dumps(state).encode())
    return ArchivePlan(
        out,
        shapes,
        tuple(todo),
        tuple(file for file in files if file.name in finished),
        found.errors,
        outputs,
        kept,
    )


def output_names(specs: Sequence[SourceSpec], settings: RunSettings) -> dict[str, tuple[str, ...]]:
    """Return the names of the outputs of each file.

    Raises:
        UsageError: A format is unknown, or is not for videos.
        OutputError: A format needs a package that is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_outputs((f"{folder}/",), specs, False, output_options(settings))
    if plan.shared:
        raise UsageError("--cluster: cannot be combined with the formats of datasets", "Leave one of them out.")
    return {name: tuple(Path(output.path).name for output in outputs) for name, outputs in plan.by_stream.items()}


def failed_mark(name: str) -> str:
    """Return the name of the file that marks the outputs of a file that broke."""
    return f".{name}.failed"


def _checked_out(settings: RunSettings) -> str:
    if len(settings.out) != 1 or settings.out[0] == "-":
        raise UsageError("--cluster: needs one --out that is a folder", "Write --out s3://BUCKET/FOLDER/ or --out FOLDER/")
    for name in _NOT_ON_A_CLUSTER:
        if getattr(settings, name) is not None:
            raise UsageError(f"--cluster: cannot be combined with --{name.replace('_', '-')}", "Leave one of them out.")
    if settings.live:
        raise UsageError("--cluster: cannot be combined with --live", "Use: vision-infer serve --cluster")
    out = settings.out[0]
    if "://" not in out and not out.endswith("/") and not os.path.isdir(out):
        raise UsageError(f"--cluster: --out {out} is not a folder", f"Write --out {out}/")
    return out.rstrip("/") + "/" if "://" in out else os.path.abspath(out) + "/"


def _earlier(folder: OutputFolder, depends: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the identities of the files of an earlier run, by name."""
    try:
        state = json.loads(folder.read(STATE))
        before, files = state["settings"], state["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{STATE}: is damaged", "Give --overwrite instead of --resume to start again.") from error
    check_same_settings(before, depends)
    return dict(files)


def _is_finished(file: ArchiveFile, earlier: dict[str, list[Any]], outputs: Sequence[str], present: set[str]) -> bool:
    return earlier.get(file.name) == file.identity and present.issuperset(outputs) and failed_mark(file.name) not in present
