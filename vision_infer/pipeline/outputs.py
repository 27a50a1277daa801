"""What ``--out`` means: which sinks for which stream."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.errors import UsageError
from vision_infer.sink.output_file import check_output
from vision_infer.sink.sink import OutputSpec, Sink
from vision_infer.stream.source import Source, SourceSpec


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """The outputs of a run."""

    shared: tuple[OutputSpec, ...]
    """take the rows of all streams"""
    by_stream: dict[str, tuple[OutputSpec, ...]]

    def paths(self) -> list[str]:
        """Every file or folder that will be written, standard output left out."""
        own = [output.path for outputs in self.by_stream.values() for output in outputs]
        return [path for path in (*(output.path for output in self.shared), *own) if path != "-"]


def plan_outputs(outs: Sequence[str], sources: Sequence[SourceSpec], overwrite: bool) -> OutputPlan:
    """Find out what to write where, and refuse what could not be written, before any work is done.

    Raises:
        UsageError: an output of no known kind, given twice, or a video for several sources.
        OutputError: it exists already (without ``overwrite``) or cannot be written.
    """
    shared: list[OutputSpec] = []
    by_stream: dict[str, list[OutputSpec]] = {source.name: [] for source in sources}
    for out in outs:
        suffix = Path(out).suffix.lower()
        if out == "-" or (suffix == ".jsonl" and not _is_folder(out)):
            shared.append(OutputSpec("jsonl", out, overwrite))
        elif _is_folder(out):
            for source in sources:
                by_stream[source.name] += _set_of(source, out, overwrite)
        elif suffix == ".mp4":
            if len(sources) != 1:
                raise UsageError(f"{out}: one video cannot hold {len(sources)} sources", "write --out FOLDER/ for one each")
            if sources[0].kind != "video":
                raise UsageError(f"{out}: pictures have no frame rate", "write --out FOLDER/ for annotated pictures")
            by_stream[sources[0].name].append(OutputSpec("video", out, overwrite))
        else:
            raise UsageError(f"--out {out}: no such kind of output", "give FILE.jsonl, FILE.mp4, FOLDER/ or -")
    plan = OutputPlan(tuple(shared), {name: tuple(outputs) for name, outputs in by_stream.items()})
    _check(plan, outs, sources, overwrite)
    return plan


def open_sink(output: OutputSpec, source: Source | None) -> Sink:
    """Open a sink.

    Args:
        output: what to open.
        source: the stream that it is for; None for a sink of all streams.

    Raises:
        OutputError: it cannot be written.
    """
    if output.kind == "jsonl":
        from vision_infer.sink.jsonl import JsonlSink

        return JsonlSink(output)
    from vision_infer.analyze.draw import Drawer

    if source is None or output.kind == "pictures":
        from vision_infer.sink.pictures import PicturesSink

        return PicturesSink(output, Drawer())
    from vision_infer.sink.video import VideoSink

    info = source.info
    return VideoSink(output, Drawer(), source.spec.paths[0] if info.has_audio else None, info.frame_rate, info.time_base)


def _is_folder(out: str) -> bool:
    return out.endswith(("/", os.sep)) or os.path.isdir(out)


def _set_of(source: SourceSpec, folder: str, overwrite: bool) -> list[OutputSpec]:
    base = os.path.join(folder, source.name)
    rows = OutputSpec("jsonl", f"{base}.jsonl", overwrite)
    if source.kind == "video":
        return [rows, OutputSpec("video", f"{base}.mp4", overwrite)]
    return [rows, OutputSpec("pictures", base if source.folder else f"{base}.jpg", overwrite)]


def _check(plan: OutputPlan, outs: Sequence[str], sources: Sequence[SourceSpec], overwrite: bool) -> None:
    inputs = {os.path.realpath(path) for source in sources for path in source.paths}
    seen: set[str] = set()
    if list(outs).count("-") > 1:
        raise UsageError("--out -: given twice", "give it once")
    folders = {
        output.path for source in sources if source.folder for output in plan.by_stream[source.name] if output.kind == "pictures"
    }
    read_from = {os.path.dirname(path) for path in inputs}
    for path in plan.paths():
        real = os.path.realpath(path)
        if path in folders and real in read_from:
            raise UsageError(f"--out {path}: the pictures of this run are read from there", "choose another folder")
        if real in seen:
            raise UsageError(f"--out {path}: given twice", "give each output once")
        if real in inputs:
            raise UsageError(f"--out {path}: is a source of this run", "choose another name")
        seen.add(real)
        if path not in folders:
            check_output(Path(path), overwrite)
