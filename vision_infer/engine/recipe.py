"""Recipes: small YAML files that say which engine is to be built of which model. ``engine build NAME`` takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vision_infer.core.errors import EngineError
from vision_infer.engine.selection.auto import BUDGET_POINTS
from vision_infer.engine.selection.candidates import Candidate
from vision_infer.engine.tensorrt.compile import PlanOptions
from vision_infer.engine.tensorrt.plan_file import RUNTIMES as PLAN_RUNTIMES

HINT = "see docs/reference/results.md for the fields of a recipe"
_CPU_FIELDS = ("compute", "batch", "workers", "threads", "budget")
_PLAN_FIELDS = ("batch_sizes", "gpus", "workspace_mb", "version_compatible", "hardware_compatible")


class Recipe(BaseModel):
    """An engine that is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    network: str = Field(min_length=1, description="name of a model, or a deployment graph (.onnx), from the recipe's folder on")
    runtime: Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
    precision: Literal["fp32", "fp16", "bf16", "int8"] = Field(default="fp32", description="of the graph")
    compute: Literal["f32", "bf16"] = Field(default="f32", description="type of the arithmetic of a float32 graph")
    device: Literal["cpu", "cuda"] | None = Field(default=None, description="null: where the runtime runs")
    batch: int = Field(default=1, ge=1, le=256, description="largest batch")
    workers: int | None = Field(default=None, ge=1, le=256, description="batches in flight; null: as many as the CPUs allow")
    threads: int = Field(default=1, ge=1, le=256, description="threads of each batch")
    budget: float = Field(default=BUDGET_POINTS, ge=0, description="loss of accuracy that is accepted, points")
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=256)], ...] = Field(
        default=PlanOptions().batch_sizes, min_length=1, description="that a plan is to run"
    )
    gpus: tuple[str, ...] = Field(default=(), description="compute capabilities that a plan is for; none: this machine's GPU")
    workspace_mb: float | None = Field(default=None, gt=0, le=1e6, description="GPU memory for a layer's intermediate results")
    version_compatible: bool = Field(default=False, description="a plan for later versions of TensorRT too")
    hardware_compatible: bool = Field(default=False, description="a plan for every GPU from Ampere on")

    @property
    def is_plan(self) -> bool:
        """Whether it asks for a plan: an engine of TensorRT or TensorRT-RTX."""
        return self.runtime in PLAN_RUNTIMES

    def plan_options(self) -> PlanOptions:
        """How its plan is built."""
        workspace = None if self.workspace_mb is None else int(self.workspace_mb * 1e6)
        return PlanOptions(tuple(sorted(set(self.batch_sizes))), workspace, self.version_compatible, self.hardware_compatible)


def recipes_dir() -> Path:
    """The folder of the recipes that come with the package: inside an installed wheel, or at the root of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "engines"


def find_recipe(name: str, folders: tuple[Path, ...]) -> Path | None:
    """The file of a recipe: a path that ends in ``.yaml``, or a name, looked for in the folders; None where there is none."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if Path(name).name != name:
        return None
    return next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        EngineError: it cannot be read, is no YAML or no recipe; names the first wrong field.
    """
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}", "give a recipe, or the name of a model") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise EngineError(f"{path}: is not YAML", HINT) from error
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise EngineError(f"{path}: field '{field}': {first['msg']}", HINT) from error
    wrong = _misplaced(recipe)
    if wrong:
        raise EngineError(f"{path}: field '{wrong}': is not for {recipe.runtime}", HINT)
    if recipe.compute == "bf16" and (recipe.precision, recipe.runtime) != ("fp32", "openvino"):
        raise EngineError(f"{path}: field 'compute': only OpenVINO computes a graph in bf16, and only one of fp32", HINT)
    return recipe


def network_of(recipe: Recipe, file: Path) -> str:
    """The network of a recipe; a deployment graph is found from the recipe's own folder on."""
    return str(file.parent / recipe.network) if recipe.network.endswith(".onnx") else recipe.network


def _misplaced(recipe: Recipe) -> str:
    """The first field that says nothing to the runtime; empty where there is none."""
    if recipe.device not in (None, "cuda" if recipe.is_plan else "cpu"):
        return "device"
    others = set(_CPU_FIELDS if recipe.is_plan else _PLAN_FIELDS)
    if recipe.runtime == "tensorrt-rtx":
        others |= {"version_compatible", "hardware_compatible"}
    return min(others & recipe.model_fields_set, default="")


def candidate_of(recipe: Recipe, possible: tuple[Candidate, ...]) -> Candidate:
    """The engine that a recipe asks for.

    Args:
        recipe: what is wanted.
        possible: the engines of its network that this machine could have.

    Raises:
        EngineError: there is none of that precision, or the runtime is not here.
    """
    runtimes = {one.runtime for one in possible}
    if recipe.runtime not in runtimes:
        raise EngineError(f"{recipe.runtime} is not installed", f"pip install 'vision-infer[{_extra(recipe.runtime)}]'")
    found = [one for one in possible if (one.runtime, one.facts.precision) == (recipe.runtime, recipe.precision)]
    if not found:
        hint = f"vision-infer model quantize {recipe.network} --precision {recipe.precision} makes one"
        raise EngineError(f"{recipe.network} has no graph in {recipe.precision}", hint)
    fitting = [one for one in found if one.compute == recipe.compute]
    if not fitting:
        raise EngineError(f"this processor has no instructions for {recipe.compute}", "use compute: f32")
    return fitting[0]


def _extra(runtime: str) -> str:
    return "cpu" if runtime == "onnxruntime" else runtime
