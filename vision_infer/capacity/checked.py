"""The simulation against what a bench measured of the whole pipeline."""

from __future__ import annotations

from vision_infer.capacity.costs import costs_of, engines_of, load_of
from vision_infer.capacity.need import Need, PlanTarget, Video
from vision_infer.capacity.report import BenchReport, PipelineRow
from vision_infer.capacity.simulate import SimulatedStreams, SimulationOutcome, simulate


def checked(report: BenchReport) -> list[tuple[PipelineRow, SimulationOutcome]]:
    """Each run of a bench, with what the simulation makes of it."""
    asked = report.settings
    codec = "hevc" if asked.codec == "hevc" else "h264"
    video = Video(codec=codec, width=asked.width, height=asked.height, fps=asked.source_fps)
    need = Need(model=asked.model, video=video, target=PlanTarget(fps=asked.fps, age_ms=asked.target_ms), loss_points=100.0)
    found = []
    for row in report.pipeline:
        free = need.model_copy(update={"precision": row.engine.rpartition("-")[2]})
        engine = next((one for one in engines_of(report, free) if one.name == row.engine), None)
        costs = None if engine is None else costs_of(report, need, engine, load_of(report))
        if costs is not None:
            found.append((row, simulate(costs, SimulatedStreams(row.streams, asked.source_fps, asked.fps), report.machine.cores)))
    return found
