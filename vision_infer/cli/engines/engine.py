"""``vision-infer engine``: list, show, build, choose and remove the engines of a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.cli.engines.passport_page import engine_row, engine_table, notes, page, passport_line
from vision_infer.cli.engines.plans import (
    BuildTarget,
    TypedOptions,
    build_wanted_plans,
    plan_line,
    plan_passports,
    plan_rows,
    plan_summary,
    refuse_for_plans,
    wanted_plan,
)
from vision_infer.core.errors import EngineError

if TYPE_CHECKING:
    from vision_infer.engine.selection.candidates import EngineCandidate
    from vision_infer.engine.store.passport import Passport

app = typer.Typer(help="List, show, build, choose and remove engines: models compiled for this machine.", no_args_is_help=True)

Budget = Annotated[float | None, Option(min=0, metavar="POINTS", help="The maximum loss of accuracy, in points. Default: 1.0.")]


@app.command("list")
def list_command(
    model: options.ModelArgument = "nanodet-416",
    budget: Budget = None,
    engine_dir: options.EngineDir = None,
    model_dir: options.ModelDir = None,
    json_output: options.Json = False,
) -> None:
    """List the engines of a model on this machine, their measurements, and the one that 'auto' selects."""
    from vision_infer.engine.selection.by_passport import BUDGET_POINTS, find_passports
    from vision_infer.engine.selection.lookup import find_choice
    from vision_infer.engine.selection.tuning_store import TuningStore

    graphs = _graphs(model, model_dir)
    folder = _folder(engine_dir)
    plans = plan_rows(folder, graphs[0][0])
    allowed = BUDGET_POINTS if budget is None else budget
    failures = TuningStore(folder, allowed)
    rows, reasons = [], {}
    for path, possible in graphs:
        known = find_passports(possible, folder)
        choice = find_choice(path, folder, budget=allowed)
        reasons[path.name] = None if choice is None else choice.reason
        lines = []
        for candidate in possible:
            passport = next((passport for passport in known if _is_of(passport, candidate)), None)
            chosen = choice is not None and choice.candidate == candidate
            plain = None if passport is None else _plain(passport)
            why_not = notes(passport, failures.failure(candidate), allowed)
            rows.append(
                {"engine": candidate.engine, "graph": candidate.graph.name, "auto": chosen, "passport": plain, "notes": why_not}
            )
            lines.append(engine_row(candidate, passport, choice, why_not))
        if not json_output:
            typer.echo("\n".join(engine_table(str(possible[0].facts.card.input_size), lines)))
    if json_output:
        _print_json({"engines": rows, "plans": plans, "reason": reasons[graphs[0][0].name], "reasons": reasons})
        return
    for row in plans:
        typer.echo(plan_line(row))
    if None in reasons.values():
        typer.echo(f"Measure the engines on this machine with: vision-infer engine choose {model}")
    _explain_budget(allowed)


def _explain_budget(budget: float) -> None:
    """Print that other commands use the default budget, if another one was given."""
    from vision_infer.engine.selection.by_passport import BUDGET_POINTS

    if budget != BUDGET_POINTS:
        typer.echo(
            f"With a budget of {budget:g} points. 'run' and 'serve' use {BUDGET_POINTS:g} point; "
            "name another engine with --engine."
        )


@app.command()
def show(
    model: options.ModelArgument,
    engine: Annotated[str | None, Argument(metavar="ENGINE", help="The engine, such as openvino-cpu-fp32. Default: all.")] = None,
    engine_dir: options.EngineDir = None,
    model_dir: options.ModelDir = None,
    json_output: options.Json = False,
) -> None:
    """Show the passports of a model's engines."""
    from vision_infer.engine.selection.by_passport import find_passports

    graphs = _graphs(model, model_dir)
    folder = _folder(engine_dir)
    known = [found for _, possible in graphs for found in find_passports(possible, folder)] + plan_passports(folder, graphs[0][0])
    found = [passport for passport in known if engine in (None, passport.engine)]
    if not found:
        raise EngineError(
            f"{model} has no passport for {engine or 'any engine'}", f"Create it with: vision-infer engine build {model}"
        )
    if json_output:
        _print_json([_plain(passport) for passport in found])
        return
    for passport in found:
        typer.echo(page(passport))


@app.command()
def build(
    name: Annotated[str, Argument(metavar="RECIPE|MODEL", help="A recipe (its name or FILE.yaml), or a model.")],
    engine: Annotated[str | None, Option(metavar="NAME", help="Build this engine only. Default: all without loss.")] = None,
    runtime: Annotated[str | None, Option(metavar="NAME", help="Build for this runtime only, such as openvino.")] = None,
    precision: Annotated[str | None, Option(metavar="P", help="The precision: fp32, fp16, bf16 or int8. Default: fp32.")] = None,
    gpus: Annotated[
        list[str] | None, Option("--for", metavar="sm_NN", help="GPUs for TensorRT-RTX. Default: this machine's. Repeatable.")
    ] = None,
    device: Annotated[str | None, Option(metavar="cuda:N", help="The GPU to build a plan for. Default: the first.")] = None,
    batch: options.Batch = None,
    workspace: Annotated[
        float | None, Option("--workspace-mb", min=1, metavar="MB", help="The maximum memory of a layer.")
    ] = None,
    version_compatible: Annotated[bool, Option("--version-compatible", help="TensorRT: allow later minor versions.")] = False,
    hardware_compatible: Annotated[bool, Option("--hardware-compatible", help="TensorRT: allow every GPU since Ampere.")] = False,
    tf32: Annotated[bool, Option("--tf32", help="Plans in fp32: compute in TF32, faster and less exact.")] = False,
    workers: options.Workers = None,
    threads: options.Threads = None,
    budget: Budget = None,
    accept_loss: Annotated[bool, Option("--accept-loss", help="Build it even if its known loss exceeds the budget.")] = False,
    engine_dir: options.EngineDir = None,
    model_dir: options.ModelDir = None,
    json_output: options.Json = False,
) -> None:
    """Compile engines and write their passports. CPU engines are also timed in alternation with FP32."""
    from vision_infer.engine.recipe import find_recipe, model_of, read_recipe, recipes_dir

    folder = _folder(engine_dir)
    file = find_recipe(name, (folder, recipes_dir()))
    recipe = None if file is None else read_recipe(file)
    model = name if file is None or recipe is None else model_of(recipe, file)
    asked = BuildTarget(model, recipe, engine, runtime, precision)
    typed = TypedOptions(tuple(gpus or ()), device, workspace, version_compatible, hardware_compatible, tf32)
    plan = wanted_plan(asked, typed, batch)
    made: Iterable[Passport]
    if plan is None:
        typed.refuse()
        made = _build_here(asked, batch, workers, threads, budget, accept_loss, folder, model_dir)
    else:
        refuse_for_plans({"--workers": workers, "--threads": threads, "--budget": budget, "--accept-loss": accept_loss or None})
        made = build_wanted_plans(plan, folder, model_dir)
    passports = []
    for passport in made:
        passports.append(passport)
        if not json_output:
            typer.echo(f"{passport.engine}: {passport_line(passport) if plan is None else plan_summary(passport)}")
    if json_output:
        _print_json([_plain(passport) for passport in passports])


def _build_here(
    asked: BuildTarget,
    batch: int | None,
    workers: int | None,
    threads: int | None,
    budget: float | None,
    accept_loss: bool,
    folder: Path,
    model_dir: Path | None,
) -> Iterator[Passport]:
    """Build engines for this machine's CPU, one after the other."""
    from vision_infer.engine.build import Profile, build_engine
    from vision_infer.engine.recipe import candidate_of
    from vision_infer.engine.selection.by_passport import BUDGET_POINTS
    from vision_infer.engine.store.cache import EngineCache

    cache = EngineCache(folder)
    for _, possible in _graphs(asked.model, model_dir):
        if asked.recipe is not None:
            recipe = asked.recipe
            wanted = [candidate_of(recipe, tuple(possible))]
            profile = Profile(batch or recipe.batch, workers or recipe.workers, threads or recipe.threads)
            allowed = recipe.budget if budget is None else budget
        else:
            wanted = _wanted(asked, possible)
            profile, allowed = Profile(batch or 1, workers, threads or 1), BUDGET_POINTS if budget is None else budget
        for candidate in wanted:
            yield build_engine(candidate, possible[0], profile, cache, _print_message, budget=allowed, accept_loss=accept_loss)


@app.command()
def choose(
    model: options.ModelArgument,
    data: Annotated[
        list[str] | None, Option(metavar="VIDEO|DIR|CONFIG", help="Frames to measure accuracy on. Repeatable.")
    ] = None,
    seconds: Annotated[float, Option(min=0.1, max=600, help="The duration of the timing, in seconds.")] = 2.0,
    again: Annotated[bool, Option("--again", help="Also try engines that failed in an earlier autotune.")] = False,
    device: options.Device = "auto",
    batch: options.Batch = None,
    workers: options.Workers = None,
    threads: options.Threads = None,
    budget: Budget = None,
    engine_dir: options.EngineDir = None,
    model_dir: options.ModelDir = None,
) -> None:
    """Autotune: measure the engines of a model on this machine, on a GPU also build them. 'auto' then selects the fastest one."""
    from vision_infer.engine.open import EngineRequest
    from vision_infer.engine.selection.by_passport import BUDGET_POINTS
    from vision_infer.precision.autotune_with_accuracy import choose_engine

    request = EngineRequest("auto", device, workers, threads, batch, engine_dir=_folder(engine_dir))
    allowed = BUDGET_POINTS if budget is None else budget
    graphs = _graphs(model, model_dir)
    for path, _ in graphs:
        choice = choose_engine(path, request, data or (), budget=allowed, seconds=seconds, on_message=_print_message, again=again)
        where = f"{choice.candidate.facts.card.input_size} input: " if len(graphs) > 1 else ""
        typer.echo(f"{where}auto selects {choice.reason}")
    _explain_budget(allowed)


@app.command()
def prune(
    max_mb: Annotated[float, Option("--max-mb", min=0, metavar="MB", help="The maximum size of all engines.")] = 4000,
    days: Annotated[
        float | None, Option("--older-than", min=0, metavar="DAYS", help="Remove engines unused for this time.")
    ] = None,
    engine_dir: options.EngineDir = None,
) -> None:
    """Remove the least recently used engines and leftovers from interrupted builds."""
    from vision_infer.engine.store.cache import EngineCache

    cache = EngineCache(_folder(engine_dir))
    for entry in cache.prune(int(max_mb * 1e6), None if days is None else days * 86_400):
        typer.echo(f"removed {entry.key.engine} of {entry.key.model}, {entry.nbytes / 1e6:.1f} MB")
    left = cache.entries()
    typer.echo(f"{len(left)} engines kept, {sum(entry.nbytes for entry in left) / 1e6:.1f} MB")


def _plain(passport: Passport) -> dict[str, object]:
    return passport.model_dump(mode="json")


def _print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _print_message(text: str) -> None:
    typer.echo(text, err=True)


def _folder(explicit: Path | None) -> Path:
    import os

    from vision_infer.engine.store.cache import engine_dir

    return engine_dir(explicit, os.environ)


def _graphs(model: str, model_dir: Path | None) -> list[tuple[Path, list[EngineCandidate]]]:
    """Return the deployment graph of each input size of a model, its own size first, with its engines on this machine."""
    from vision_infer.engine.registry import no_runtime
    from vision_infer.engine.selection.candidates import candidates
    from vision_infer.model.catalog import model_inputs, resolve_model

    paths = [resolve_model(model, model_dir)] if model.endswith(".onnx") else list(model_inputs(model, model_dir).values())
    found = [(path, candidates(path)) for path in paths]
    if not all(possible for _, possible in found):
        raise no_runtime()
    return found


def _wanted(asked: BuildTarget, possible: list[EngineCandidate]) -> list[EngineCandidate]:
    if asked.engine is None and asked.runtime is None and asked.precision is None:
        return [candidate for candidate in possible if candidate.lossless]
    found = [
        candidate
        for candidate in possible
        if asked.engine in (None, candidate.engine)
        and asked.runtime in (None, candidate.runtime.name)
        and (asked.engine is not None or (candidate.facts.precision, candidate.compute) == (asked.precision or "fp32", "f32"))
    ]
    if not found:
        wanted = " ".join(filter(None, (asked.engine, asked.runtime, asked.precision)))
        raise EngineError(
            f"{asked.model} has no engine {wanted} on this machine",
            f"the available ones are {', '.join(candidate.engine for candidate in possible)}",
        )
    return found


def _is_of(passport: Passport, candidate: EngineCandidate) -> bool:
    same = (passport.engine, passport.compute) == (candidate.engine, candidate.compute)
    return same and passport.sources.graph == candidate.key().graph_sha256
