"""The passport of a loaded engine: its measurements from this machine or from the machine that built it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vision_infer.config.serve import ServeSettings
from vision_infer.core.errors import VisionInferError
from vision_infer.engine.selection.by_passport import find_passports
from vision_infer.engine.selection.candidates import candidates, this_device
from vision_infer.engine.store.cache import engine_dir
from vision_infer.engine.store.passport import Passport
from vision_infer.model.catalog import model_inputs
from vision_infer.pipeline.status import LaneStatus


def passport_of(lane: LaneStatus, settings: ServeSettings, environ: Mapping[str, str] = os.environ) -> Passport | None:
    """Return the most relevant passport of a lane's engine, preferably from this machine's CPU; None if there is none."""
    try:
        graph = _graph(lane, settings)
        if graph is None:
            return None
        possible = [one for one in candidates(graph) if one.engine == lane.engine]
        found = [one for one in find_passports(possible, engine_dir(settings.engine_dir, environ)) if one.engine == lane.engine]
        device = this_device()
    except VisionInferError:
        return None
    here = [one for one in found if one.device.name == device.name]
    precision = lane.engine.rpartition("-")[2]
    alike = [one for one in found if one.device.arithmetic(precision) == device.arithmetic(precision)]
    return next(iter((*here, *alike, *found)), None)


def _graph(lane: LaneStatus, settings: ServeSettings) -> Path | None:
    model = lane.name.removeprefix("secondary:").partition("@")[0]
    if model.endswith(".onnx"):
        return Path(model)
    graphs = model_inputs(model, settings.model_dir)
    width, height = lane.input_size
    first = next(iter(graphs.values()), None)
    return next((path for size, path in graphs.items() if (size.width, size.height) == (width, height)), first)
