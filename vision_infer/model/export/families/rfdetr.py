"""RF-DETR, of the package rfdetr: a DETR on DINOv2, no NMS (Robinson et al., 2025)."""

from __future__ import annotations

import argparse
import dataclasses
import types
from functools import partial
from pathlib import Path
from typing import Any

from vision_infer.core.errors import ModelError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Built, Family, Order
from vision_infer.model.export.library import load
from vision_infer.model.export.weights import downloaded, load_into, read_weights
from vision_infer.model.head import IMAGENET_MEAN, IMAGENET_STD

_OPTION_CLASSES = (argparse.Namespace, types.SimpleNamespace)
"""The classes for options that its trainer stores with the weights."""


def family(title: str, prefix: str, sides: dict[str, int], multiple: int, outputs: tuple[str, ...]) -> Family:
    """Return a family of the package.

    Args:
        title: The name for users.
        prefix: What is before the variant in the names of the package's classes.
        sides: The sides of the default inputs by variant, pixels.
        multiple: The number of which the input sides must be multiples.
        outputs: The names of the outputs.
    """
    build = partial(_build, prefix=prefix, outputs=outputs)
    source = "the package rfdetr, from storage.googleapis.com"

    def input_size(variant: str) -> Size:
        return Size(sides[variant], sides[variant])

    return Family(title, "detr", "detect", "rfdetr", tuple(sides), source, build, input_size, multiple=multiple, scores="sigmoid")


def _build(order: Order, prefix: str, outputs: tuple[str, ...]) -> Built:
    if order.size.width != order.size.height:
        raise UsageError("RF-DETR supports square inputs only", f"Use --input {order.size.width}x{order.size.width}.")
    settings, defaults = load("rfdetr.config"), load("rfdetr.models._defaults").MODEL_DEFAULTS
    kind = getattr(settings, f"RFDETR{prefix}{order.variant.capitalize()}Config")
    # The positions of the training are resized for another input size when the model is prepared for export.
    options: dict[str, Any] = {
        "resolution": order.size.width,
        "positional_encoding_size": kind.model_fields["positional_encoding_size"].default,
        "device": "cpu",
    }
    if order.classes is not None:
        options["num_classes"] = order.classes
    config = kind(pretrain_weights=None, **options)
    network = load("rfdetr.models").build_model_from_config(
        config, defaults=dataclasses.replace(defaults, force_no_pretrain=True)
    )
    card: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    file = _fetch(kind()) if order.origin == "download" else order.file
    if file is not None:
        load_into(network, _named(read_weights(file, _OPTION_CLASSES)), file.name)
        if order.classes is None:
            card["labels"] = _labels()
    if order.origin == "download" and file is not None:
        source = {"source": f"rfdetr, {file.name}", "attribution": "Roboflow"}
        card |= {"license": "Apache-2.0", "weights": source}
    network.eval()
    network.export()  # its preparation for export computes the positions for this input size
    return Built(network, outputs, card)


def _named(weights: dict[str, Any]) -> dict[str, Any]:
    """Return the weights with the model's own names, without the prefix of a trainer."""
    if all(name.startswith("model.") for name in weights):
        return {name.removeprefix("model.").removeprefix("_orig_mod."): value for name, value in weights.items()}
    return weights


def _labels() -> tuple[str, ...]:
    """Return COCO's names by COCO's category numbers, which have gaps."""
    names = load("rfdetr.assets.coco_classes").COCO_CLASSES
    return tuple(names.get(number, "N/A") for number in range(max(names) + 1))


def _fetch(config: Any) -> Path:
    """Download the official weights with the package."""
    path = Path(str(config.pretrain_weights))
    downloaded(lambda: load("rfdetr.assets.model_weights").download_pretrain_weights(str(path)), f"{path.name} of rfdetr")
    if not path.is_file():
        raise ModelError(f"{path.name} of rfdetr cannot be downloaded", "Download it on another machine and add --weights FILE.")
    return path


FAMILY = family(
    "RF-DETR", "", {"nano": 384, "small": 512, "medium": 576, "large": 704}, multiple=32, outputs=("pred_boxes", "logits")
)
