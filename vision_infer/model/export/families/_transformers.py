"""What networks of the library transformers share: a configuration, weights in safetensors, and one tensor for each output."""

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
class Recipe:
    """How networks of a family are built."""

    config: str
    """class of the configuration in transformers"""
    model: str
    """class of the network"""
    repositories: Mapping[str, str]
    """official weights on huggingface.co, by variant"""
    license: str
    configure: Callable[[Any, str], None]
    """makes the library's usual configuration that of a variant"""
    outputs: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    """of the official weights"""
    strict: bool = False
    ignored: tuple[str, ...] = ()
    """beginnings of the names of weights that belong to another part of the official network"""
    prepare: Callable[[Any, Order], None] = lambda _, __: None
    """changes the network before it is exported"""
    attribution: str = ""

    @property
    def official(self) -> str:
        """Where the weights are from, for people."""
        first = next(iter(self.repositories.values()))
        return f"huggingface.co, such as {first}"


def build(order: Order, recipe: Recipe, card: Mapping[str, Any]) -> Built:
    """Build a network of transformers.

    Args:
        order: what.
        recipe: how.
        card: fields that are not the head's defaults.

    Raises:
        ModelError: the weights do not fit, or cannot be downloaded.
    """
    transformers = load("transformers")
    kind = getattr(transformers, recipe.model)
    transformers.logging.set_verbosity_error()
    fields = dict(card)
    # Attention in plain steps: the fused one is exported with nodes that ask for NaN, which not every runtime has.
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
    return Built(_picked(network, recipe.outputs), recipe.outputs, fields, recipe.strict)


def _config(order: Order, recipe: Recipe, transformers: Any) -> Any:
    """The configuration that lies beside the weights, else the variant's."""
    kind = getattr(transformers, recipe.config)
    beside = None if order.file is None else order.file.with_name(CONFIG_FILE)
    if beside is not None and beside.is_file():
        try:
            config = kind.from_json_file(str(beside))
        except Exception as error:
            raise ModelError(
                f"{beside}: is no configuration of {recipe.config}: {error}", "remove it, or copy the right one"
            ) from error
        return getattr(config, "vision_config", config)
    config = kind()
    recipe.configure(config, order.variant)
    if recipe.labels is not None:
        config.num_labels = order.classes or len(recipe.labels)
    return config


def _load(kind: Any, config: Any, path: Path, recipe: Recipe, eager: Mapping[str, str]) -> Any:
    weights = {name: value for name, value in read_weights(path).items() if not name.startswith(recipe.ignored or ("\0",))}
    try:
        # Through the library's own door: it knows the names that older versions gave to the same weights.
        network, told = kind.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, ignore_mismatched_sizes=True, **eager
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path.name}: cannot be loaded: {error}", "check family and variant") from error
    shapes = [(name, tuple(given), tuple(wanted)) for name, given, wanted in told["mismatched_keys"]]
    refuse_misfit(path.name, told["missing_keys"], told["unexpected_keys"], shapes)
    return network


def _labels(config: Any, official: tuple[str, ...]) -> dict[str, Any]:
    """The names that the configuration has, where it has some; the official ones where there are as many."""
    named = tuple(str(name) for _, name in sorted(config.id2label.items()))
    if all(name.startswith("LABEL_") for name in named):
        return {"labels": official} if len(named) == len(official) else {}
    return {"labels": named}


def _picked(network: Any, outputs: tuple[str, ...]) -> Any:
    base: Any = load("torch").nn.Module

    class Picked(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any) -> Any:
            found = self.network(pixel_values=images)
            return tuple(getattr(found, name) for name in outputs)

    return Picked()
