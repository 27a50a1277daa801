"""What models of the library transformers share: a configuration, weights in safetensors, and a tensor for each output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_infer.core.errors import ModelError
from vision_infer.model.export.family import Built, Order
from vision_infer.model.export.library import load
from vision_infer.model.export.weights import downloaded, read_weights, refuse_misfit

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class TransformersRecipe:
    """How models of a family are built."""

    config: str
    """The class of the configuration in transformers."""
    model: str
    """The class of the model."""
    repositories: Mapping[str, str]
    """The official weights on huggingface.co, by variant."""
    license: str
    configure: Callable[[Any, str], None]
    """Changes the library's default configuration to that of a variant."""
    outputs: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    """The labels of the official weights."""
    strict: bool = False
    ignored: tuple[str, ...] = ()
    """The prefixes of weights that belong to other parts of the official model."""
    prepare: Callable[[Any, Order], None] = lambda _, __: None
    """Changes the model before the export."""
    attribution: str = ""

    @property
    def official(self) -> str:
        """The source of the weights, for users."""
        first = next(iter(self.repositories.values()))
        return f"huggingface.co, such as {first}"


def build(order: Order, recipe: TransformersRecipe, card: Mapping[str, Any]) -> Built:
    """Build a model of transformers.

    Args:
        order: The model to build.
        recipe: How it is built.
        card: The fields of the card that differ from the head's defaults.

    Raises:
        ModelError: The weights do not fit, or cannot be downloaded.
    """
    network, fields = load_network(order, recipe, card)
    return Built(_with_outputs(network, recipe.outputs), recipe.outputs, fields, recipe.strict)


def load_network(order: Order, recipe: TransformersRecipe, card: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Build a model as :func:`build` does, and return it without a choice of outputs, and the fields of its card."""
    transformers = load("transformers")
    kind = getattr(transformers, recipe.model)
    transformers.logging.set_verbosity_error()
    fields = dict(card)
    # Attention in separate steps: the fused one is exported with an operator for NaN that not every runtime has.
    eager = {"attn_implementation": "eager"}
    if order.origin == "download":
        name = recipe.repositories[order.variant]
        network = downloaded(lambda: kind.from_pretrained(name, use_safetensors=True, **eager), f"{name} of huggingface.co")
        fields |= {
            "license": recipe.license,
            "weights": {"source": f"https://huggingface.co/{name}", "attribution": recipe.attribution},
        }
    else:
        config = _config(order, recipe, transformers)
        if order.file is None:
            config._attn_implementation = "eager"
            network = kind(config)
        else:
            network = _load(kind, config, order.file, recipe, eager)
    if recipe.labels is not None and order.origin in ("file", "download"):
        fields |= _labels(network.config, recipe.labels)
    network.eval()
    recipe.prepare(network, order)
    return network, fields


def _config(order: Order, recipe: TransformersRecipe, transformers: Any) -> Any:
    """Return the configuration next to the weights, or else that of the variant."""
    kind = getattr(transformers, recipe.config)
    existing = None if order.file is None else order.file.with_name(CONFIG_FILE)
    if existing is not None and existing.is_file():
        try:
            config = kind.from_json_file(str(existing))
        except Exception as error:
            raise ModelError(
                f"{existing}: not a configuration of {recipe.config}: {error}", "Remove it, or copy the right one."
            ) from error
        return getattr(config, "vision_config", config)
    config = kind()
    recipe.configure(config, order.variant)
    classes = order.classes or len(recipe.labels or ())
    if classes:
        config.num_labels = classes
    return config


def _load(kind: Any, config: Any, path: Path, recipe: TransformersRecipe, eager: Mapping[str, str]) -> Any:
    weights = {name: value for name, value in read_weights(path).items() if not name.startswith(recipe.ignored or ("\0",))}
    try:
        # The library's loader knows the names that older versions gave to the same weights.
        network, report = kind.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, ignore_mismatched_sizes=True, **eager
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path.name}: cannot be loaded: {error}", "Check family and variant.") from error
    shapes = [(name, tuple(given), tuple(wanted)) for name, given, wanted in report["mismatched_keys"]]
    refuse_misfit(path.name, report["missing_keys"], report["unexpected_keys"], shapes)
    return network


def _labels(config: Any, official: tuple[str, ...]) -> dict[str, Any]:
    """Return the names in the configuration, or else the official ones if their number fits."""
    named = tuple(str(name) for _, name in sorted(config.id2label.items()))
    if all(name.startswith("LABEL_") for name in named):
        return {"labels": official} if len(named) == len(official) else {}
    return {"labels": named}


def _with_outputs(network: Any, outputs: tuple[str, ...]) -> Any:
    base: Any = load("torch").nn.Module

    class SelectedOutputs(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any) -> Any:
            found = self.network(pixel_values=images)
            return tuple(getattr(found, name) for name in outputs)

    return SelectedOutputs()
