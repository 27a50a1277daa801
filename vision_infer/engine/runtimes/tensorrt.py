"""TensorRT and TensorRT-RTX: both run plans on NVIDIA GPUs; see ``engine/tensorrt/``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import Precision, read_graph_facts
from vision_infer.engine.runtime import EngineSettings, Runtime
from vision_infer.engine.store.cache import EngineCache, OnMessage
from vision_infer.engine.tensorrt.names import MODULES, PLAN_RUNTIMES, TITLES, PlanRuntime


def _open(name: PlanRuntime, path: Path, settings: EngineSettings, cache: EngineCache | None, on_message: OnMessage) -> Engine:
    from vision_infer.engine.gpu.device_engine import batch_sizes_up_to
    from vision_infer.engine.tensorrt.compile import PlanOptions
    from vision_infer.engine.tensorrt.plan_engine import open_plan_engine
    from vision_infer.engine.tensorrt.plans import graph_of, plan_for_gpu

    tf32 = settings.precision == "tf32"
    if settings.precision:
        precision = cast(Precision, "fp32" if tf32 else settings.precision)
        path = graph_of(path, read_graph_facts(path).card.name, precision)
    index, options = settings.device_index, PlanOptions(batch_sizes_up_to(settings.batch), tf32=tf32)
    plan = plan_for_gpu(path, name, options, index, cache, on_message, settings.may_build)
    return open_plan_engine(plan, index, settings.batch, settings.workers, on_message)


RUNTIMES = tuple(
    Runtime(
        name,
        TITLES[name],
        partial(_open, name),
        modules=(MODULES[name],),
        packages=(f"{name}-cu13",),
        extra=name,
        devices=("cuda",),
        cached_on=("cuda",),
    )
    for name in PLAN_RUNTIMES
)
