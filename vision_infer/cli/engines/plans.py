"""TensorRT plans on the command line: ``engine build``, and their rows in ``engine list`` and ``engine show``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from vision_infer.core.errors import EngineError, UsageError

if TYPE_CHECKING:
    from vision_infer.engine.graph_facts import Precision
    from vision_infer.engine.recipe import EngineRecipe
    from vision_infer.engine.store.passport import Passport
    from vision_infer.engine.tensorrt.cached_plans import CachedPlan
    from vision_infer.engine.tensorrt.compile import PlanOptions
    from vision_infer.engine.tensorrt.names import PlanRuntime


@dataclass(frozen=True, slots=True)
class BuildTarget:
    """The engine to build, as given to ``engine build``. None: not given."""

    model: str
    """The name of a model, or a deployment graph."""
    recipe: EngineRecipe | None
    engine: str | None
    runtime: str | None
    precision: str | None


@dataclass(frozen=True, slots=True)
class TypedOptions:
    """The options of plans, as typed."""

    gpus: tuple[str, ...]
    device: str | None
    workspace_mb: float | None
    version_compatible: bool
    hardware_compatible: bool
    tf32: bool

    def refuse(self) -> None:
        """Reject the options if no plan is built.

        Raises:
            UsageError: An option is given; names the first one.
        """

        given = {
            "--for": self.gpus,
            "--device": self.device,
            "--workspace-mb": self.workspace_mb,
            "--version-compatible": self.version_compatible,
            "--hardware-compatible": self.hardware_compatible,
            "--tf32": self.tf32,
        }
        for option, value in given.items():
            if value:
                raise UsageError(f"{option} is valid for plans only", "Add --runtime tensorrt-rtx or --runtime tensorrt.")


@dataclass(frozen=True, slots=True)
class PlanWanted:
    """A plan to build."""

    model: str
    """The name of a model, or a deployment graph."""
    runtime: PlanRuntime
    precision: Precision
    gpus: tuple[str, ...]
    """The compute capabilities; empty for this machine's GPU."""
    options: PlanOptions
    device: int = 0
    """The index of this machine's GPU."""


def wanted_plan(asked: BuildTarget, typed: TypedOptions, batch: int | None) -> PlanWanted | None:
    """Return the plan to build; None for an engine that is not a plan.

    Raises:
        UsageError: The options contradict each other, or the runtime or precision is unknown.
    """
    from vision_infer.engine.device import parse_device
    from vision_infer.engine.gpu.device_engine import batch_sizes_up_to
    from vision_infer.engine.tensorrt.compile import PlanOptions
    from vision_infer.engine.tensorrt.names import PLAN_RUNTIMES

    runtime: str
    precision: str
    if asked.recipe is not None:
        for option, value in (("--engine", asked.engine), ("--runtime", asked.runtime), ("--precision", asked.precision)):
            if value is not None:
                raise UsageError(f"{option} {value}: cannot be combined with a recipe", "Name the model instead of the recipe.")
        if not asked.recipe.is_plan:
            return None
        options = asked.recipe.plan_options()
        runtime, precision, gpus = asked.recipe.runtime, asked.recipe.precision, typed.gpus or asked.recipe.gpus
    else:
        runtime, precision, gpus = *_named(asked), typed.gpus
        if runtime not in PLAN_RUNTIMES:
            return None
        options = PlanOptions(tf32=precision == "tf32")
        precision = "fp32" if options.tf32 else precision
    workspace = options.workspace_bytes if typed.workspace_mb is None else int(typed.workspace_mb * 1e6)
    options = PlanOptions(
        options.batch_sizes if batch is None else batch_sizes_up_to(batch),
        workspace,
        options.version_compatible or typed.version_compatible,
        options.hardware_compatible or typed.hardware_compatible,
        options.tf32 or typed.tf32,
    )
    kind, index = ("cuda", 0) if typed.device is None else parse_device(typed.device)
    if kind == "cpu":
        raise UsageError(f"--device {typed.device}: plans are for NVIDIA GPUs", "Use --device cuda:N, or remove the option.")
    return PlanWanted(asked.model, cast("PlanRuntime", runtime), cast("Precision", precision), gpus, options, index)


def _named(asked: BuildTarget) -> tuple[str, str]:
    """Return the runtime, empty if not given, and the precision of a target without a recipe."""
    from vision_infer.engine.registry import buildable_runtimes

    known = [runtime.name for runtime in buildable_runtimes()]
    if asked.runtime is not None and asked.runtime not in known:
        raise UsageError(f"--runtime {asked.runtime}: is unknown", f"Use {', '.join(known)}.")
    if asked.precision not in (None, "fp32", "fp16", "bf16", "int8"):
        raise UsageError(f"--precision {asked.precision}: is unknown", "Use fp32, fp16, bf16 or int8.")
    if asked.engine is None:
        return asked.runtime or "", asked.precision or "fp32"
    runtime, _, precision = [*asked.engine.rsplit("-", 2), "", ""][:3]
    if asked.runtime not in (None, runtime) or asked.precision not in (None, precision):
        raise UsageError(f"--engine {asked.engine} contradicts --runtime or --precision", "Remove one of them.")
    return runtime, precision


def refuse_for_plans(given: Mapping[str, object]) -> None:
    """Reject options that do not apply to plans.

    Raises:
        UsageError: An option is given; names the first one.
    """

    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option} is not valid for plans", "Remove the option.")


def plan_summary(passport: Passport) -> str:
    """Return a line about a plan that was built or already existed."""
    layers = "; ".join(f"{group}: {kind}" for group, kind in passport.precision.items() if group != "graph")
    seconds = "" if passport.build_seconds is None else f", built in {passport.build_seconds:.2f} s"
    size = f", input {passport.card.width}x{passport.card.height}"
    return f"for {passport.device.name}{seconds}{size}{f', {layers}' if layers else ''}"


def build_wanted_plans(wanted: PlanWanted, folder: Path, model_dir: Path | None) -> Iterator[Passport]:
    """Build the plan of each input size of a model into the engine cache, with progress on standard error.

    Raises:
        EngineError: The runtime is missing, rejects the graph or fails to build it, or the plan cannot be stored.
        ModelError: The model does not exist.
        UsageError: The runtime does not support an option.
    """
    from vision_infer.cli.engines.build_progress import open_build_progress
    from vision_infer.engine.store.cache import EngineCache
    from vision_infer.engine.tensorrt.api import load_api
    from vision_infer.engine.tensorrt.plan_file import plan_engine_name
    from vision_infer.engine.tensorrt.plans import PlanJob, build_plan, graph_of
    from vision_infer.engine.tensorrt.target import choose_target
    from vision_infer.model.catalog import model_inputs

    def on_message(text: str) -> None:
        typer.echo(text, err=True)

    api = load_api(wanted.runtime)
    target = choose_target(api, wanted.gpus, anywhere=wanted.options.hardware_compatible, index=wanted.device)
    for number, path in enumerate(model_inputs(wanted.model, model_dir).values()):
        try:
            graph = graph_of(path, wanted.model, wanted.precision)
        except EngineError as error:
            if number == 0:
                raise
            on_message(f"{path.name} is skipped: {error}")
            continue
        with open_build_progress(plan_engine_name(wanted.runtime, wanted.precision, wanted.options.tf32)) as report:
            yield build_plan(PlanJob(graph, api, target, wanted.options), EngineCache(folder), on_message, report)[1]


def plan_rows(folder: Path, path: Path) -> list[dict[str, Any]]:
    """Return a row for each stored plan of a model."""
    return [
        {
            "engine": plan.entry.key.engine,
            "graph": plan.graph,
            "for": plan.entry.key.device,
            "options": plan.entry.key.profile,
            "runtime_version": plan.entry.key.runtime_version,
            "bytes": plan.entry.nbytes,
            "not_here": plan.not_here,
            "passport": None if plan.passport is None else plan.passport.model_dump(mode="json"),
        }
        for plan in _kept(folder, path)
    ]


def plan_passports(folder: Path, path: Path) -> list[Passport]:
    """Return the passports of the stored plans of a model."""
    return [plan.passport for plan in _kept(folder, path) if plan.passport is not None]


def _kept(folder: Path, path: Path) -> list[CachedPlan]:
    if not folder.is_dir():
        return []
    from vision_infer.engine.store.cache import EngineCache
    from vision_infer.engine.tensorrt.cached_plans import list_cached_plans

    try:
        return list_cached_plans(EngineCache(folder), path)
    except EngineError:  # the folder is not trusted; building reports why
        return []


def plan_line(row: dict[str, Any]) -> str:
    """Return a row of ``engine list`` as text."""
    passport = row["passport"] or {}
    seconds = passport.get("build_seconds")
    built = "" if seconds is None else f", built in {seconds:.1f} s"
    text = f"for {row['for']}, {row['options']}, {row['bytes'] / 1e6:.1f} MB{built}"
    return (
        f"  {row['engine']:22} {row['graph'] or '-':22} "
        f"{text}{'; not usable here: ' + row['not_here'] if row['not_here'] else ''}"
    )
