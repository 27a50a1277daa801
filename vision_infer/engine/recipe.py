"""Recipes: small YAML files that describe an engine to build. ``engine build NAME`` takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vision_infer.core.errors import EngineError
from vision_infer.core.field_problem import field_problem
from vision_infer.engine.registry import buildable_runtimes, find_runtime
from vision_infer.engine.runtime import Compute
from vision_infer.engine.selection.by_passport import BUDGET_POINTS
from vision_infer.engine.selection.candidates import EngineCandidate
from vision_infer.engine.tensorrt.compile import PlanOptions
from vision_infer.engine.tensorrt.names import PLAN_RUNTIMES

HINT = "See docs/reference/results.md for the fields of a recipe."
_CPU_FIELDS = ("compute", "batch", "workers", "threads", "budget")
_PLAN_FIELDS = ("batch_sizes", "gpus", "workspace_mb", "version_compatible", "hardware_compatible", "tf32")


def _check_runtime(name: str) -> str:
    names = [runtime.name for runtime in buildable_runtimes()]
    if name not in names:
        raise ValueError(f"{name!r} is not one of {', '.join(names)}")
    return name


class EngineRecipe(BaseModel):
    """The description of an engine to build."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field(min_length=1, description="The name of a model, or a deployment graph (relative to the recipe's folder).")
    runtime: Annotated[str, AfterValidator(_check_runtime)]
    precision: Literal["fp32", "fp16", "bf16", "int8"] = Field(default="fp32", description="The precision of the graph.")
    compute: Compute = Field(default="f32", description="The type of the arithmetic of a float32 graph.")
    device: Literal["cpu", "cuda"] | None = Field(default=None, description="The kind of device; null: the runtime's own.")
    batch: int = Field(default=1, ge=1, le=256, description="The largest batch size.")
    workers: int | None = Field(default=None, ge=1, le=256, description="The number of batches in flight; null: by the CPUs.")
    threads: int = Field(default=1, ge=1, le=256, description="The number of threads for each batch.")
    budget: float = Field(default=BUDGET_POINTS, ge=0, description="The accepted loss of accuracy, points.")
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=256)], ...] = Field(
        default=PlanOptions().batch_sizes, min_length=1, description="The batch sizes that a plan runs."
    )
    gpus: tuple[str, ...] = Field(default=(), description="The compute capabilities of a plan; empty: this machine's GPU.")
    workspace_mb: float | None = Field(default=None, gt=0, le=1e6, description="The GPU memory for intermediate results, MB.")
    version_compatible: bool = Field(default=False, description="Whether later versions of TensorRT can load the plan.")
    hardware_compatible: bool = Field(default=False, description="Whether every GPU from Ampere on can run the plan.")

    tf32: bool = Field(default=False, description="Whether a plan in fp32 computes products in TF32.")

    @property
    def is_plan(self) -> bool:
        """Whether it describes a plan: an engine of TensorRT or TensorRT-RTX."""
        return self.runtime in PLAN_RUNTIMES

    def plan_options(self) -> PlanOptions:
        """Return how its plan is built."""
        workspace = None if self.workspace_mb is None else int(self.workspace_mb * 1e6)
        sizes = tuple(sorted(set(self.batch_sizes)))
        return PlanOptions(sizes, workspace, self.version_compatible, self.hardware_compatible, self.tf32)


def recipes_dir() -> Path:
    """Return the folder of the package's recipes: inside an installed wheel, or at the root of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "engines"


def find_recipe(name: str, folders: tuple[Path, ...]) -> Path | None:
    """Return the file of a recipe: a path that ends in ``.yaml``, or a name to look for in the folders; None if not found."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if Path(name).name != name:
        return None
    return next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)


def read_recipe(path: Path) -> EngineRecipe:
    """Read a recipe.

    Raises:
        EngineError: It cannot be read, is not YAML or not a recipe; the message names the first wrong field.
    """
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}", "Give a recipe, or the name of a model.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise EngineError(f"{path}: is not YAML", HINT) from error
    try:
        recipe = EngineRecipe.model_validate(data)
    except ValidationError as error:
        raise EngineError(f"{path}: {field_problem(error, 'recipe')}", HINT) from error
    wrong = _misplaced(recipe)
    if wrong:
        raise EngineError(f"{path}: field '{wrong}' is not valid for {recipe.runtime}", HINT)
    if recipe.compute not in find_runtime(recipe.runtime).computes or (recipe.compute == "bf16" and recipe.precision != "fp32"):
        raise EngineError(f"{path}: field 'compute': only OpenVINO computes a graph in bf16, and only an fp32 graph", HINT)
    return recipe


def model_of(recipe: EngineRecipe, file: Path) -> str:
    """Return the model of a recipe; the path of a deployment graph is relative to the recipe's folder."""
    return str(file.parent / recipe.model) if recipe.model.endswith(".onnx") else recipe.model


def _misplaced(recipe: EngineRecipe) -> str:
    """Return the first field that does not apply to the runtime; empty if there is none."""
    if recipe.device not in (None, "cuda" if recipe.is_plan else "cpu"):
        return "device"
    others = set(_CPU_FIELDS if recipe.is_plan else _PLAN_FIELDS)
    if recipe.runtime == "tensorrt-rtx":
        others |= {"version_compatible", "hardware_compatible"}
    return min(others & recipe.model_fields_set, default="")


def candidate_of(recipe: EngineRecipe, possible: tuple[EngineCandidate, ...]) -> EngineCandidate:
    """Return the engine that a recipe describes, among those that its model can have on this machine.

    Raises:
        EngineError: There is no graph of that precision, or the runtime is not installed.
    """
    runtime = find_runtime(recipe.runtime)
    installed = [one for one in possible if one.runtime == runtime]
    if not installed:
        raise runtime.missing()
    found = [one for one in installed if one.facts.precision == recipe.precision]
    if not found:
        hint = f"Create one with: vision-infer model quantize {recipe.model} --precision {recipe.precision}"
        raise EngineError(f"{recipe.model} has no graph in {recipe.precision}", hint)
    fitting = [one for one in found if one.compute == recipe.compute]
    if not fitting:
        raise EngineError(f"this CPU has no instructions for {recipe.compute}", "Use compute: f32.")
    return fitting[0]
