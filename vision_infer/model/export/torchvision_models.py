"""What torchvision's models share: building by name, official weights with labels and accuracy, raw detectors, main outputs."""

from __future__ import annotations

from functools import partial
from typing import Any

from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Built, Family, Order
from vision_infer.model.export.library import load, quietly
from vision_infer.model.export.weights import downloaded, load_into, read_weights

OFFICIAL = "torchvision, from download.pytorch.org"
_SEGMENT_SIDE = 520
"""The side of the images of the training of models for semantic segmentation, pixels."""
_METRICS = {"box_map": "mAP 0.50:0.95", "acc@1": "top-1", "miou": "mIoU"}
_DATASETS = {"COCO-val2017": "COCO val2017", "ImageNet-1K": "ImageNet-1K"}


def detector(title: str, head: str, names: dict[str, str], outputs: tuple[str, ...], side: int, **card: Any) -> Family:
    """Return a family of detectors.

    Args:
        title: The name for users.
        head: The head that decodes it.
        names: The names in torchvision by variant, the smallest first.
        outputs: The keys of the detector's outputs, in order.
        side: The side of the default input, in pixels.
        card: The fields of the card that differ from the head's defaults.
    """
    build = partial(_build, names=names, outputs=outputs, fields=card, raw=True)
    return Family(title, head, "detect", "torchvision", tuple(names), OFFICIAL, build, lambda _: Size(side, side))


def classifier(title: str, names: dict[str, str], sides: dict[str, int] | None = None) -> Family:
    """Return a family of classifiers.

    Args:
        title: The name for users.
        names: The names in torchvision by variant, the smallest first.
        sides: The sides of default inputs other than 224 pixels, by variant.
    """
    build = partial(_build, names=names, outputs=("logits",), fields={}, raw=False)

    def size(variant: str) -> Size:
        side = (sides or {}).get(variant, 224)
        return Size(side, side)

    return Family(title, "classify", "classify", "torchvision", tuple(names), OFFICIAL, build, size)


def segmenter(title: str, names: dict[str, str]) -> Family:
    """Return a family for semantic segmentation, given the name for users and the names in torchvision by variant."""
    build = partial(_build, names=names, outputs=("out",), fields={}, raw=False, backbone=True)
    return Family(
        title, "semantic", "segment", "torchvision", tuple(names), OFFICIAL, build, lambda _: Size(_SEGMENT_SIDE, _SEGMENT_SIDE)
    )


def _build(
    order: Order, names: dict[str, str], outputs: tuple[str, ...], fields: dict[str, Any], raw: bool, backbone: bool = False
) -> Built:
    models = load("torchvision.models")
    name = names[order.variant]
    official = models.get_model_weights(name).DEFAULT
    categories = tuple(official.meta["categories"])
    weights = None if order.file is None else read_weights(order.file)
    options: dict[str, Any] = {"weights_backbone": None} if raw or backbone else {}
    if any(part.startswith("aux_classifier.") for part in weights or ()) or (order.origin == "download" and "deeplab" in name):
        options["aux_loss"] = True  # the weights have a second output, for training
    with quietly():
        network = models.get_model(name, weights=None, num_classes=order.classes or len(categories), **options)
    card = dict(fields)
    if not raw:
        shown = official.transforms()
        card |= {"mean": [round(255 * value, 4) for value in shown.mean], "std": [round(255 * value, 4) for value in shown.std]}
    if weights is not None and order.file is not None:
        load_into(network, weights, order.file.name)
    if order.origin == "download":
        fetch = partial(official.get_state_dict, progress=True, check_hash=True, weights_only=True)
        load_into(network, downloaded(fetch, f"{official} of torchvision"), str(official))
        card |= _published(official)
    if order.origin in ("file", "download") and order.classes in (None, len(categories)):
        card["labels"] = categories
    notes = _note(order, categories)
    return Built(_raw(network, outputs) if raw else network, outputs, card, notes=notes)


def _note(order: Order, categories: tuple[str, ...]) -> tuple[str, ...]:
    if order.origin != "file" or order.classes not in (None, len(categories)):
        return ()
    return (f"labels: the {len(categories)} of torchvision's weights; add --labels FILE for others",)


def _published(official: Any) -> dict[str, Any]:
    """Return what torchvision publishes about its weights."""
    accuracy = [
        {"metric": _METRICS[metric], "dataset": _DATASETS.get(dataset, dataset), "value": value, "source": "torchvision"}
        for dataset, metrics in official.meta.get("_metrics", {}).items()
        for metric, value in metrics.items()
        if metric in _METRICS
    ]
    weights = {"source": official.url, "attribution": "the torchvision contributors"}
    return {"license": "BSD-3-Clause", "accuracy": accuracy, "weights": weights}


def _raw(detector: Any, outputs: tuple[str, ...]) -> Any:
    """Return a detector's backbone and head without normalization, anchors and NMS."""
    module: Any = load("torch").nn.Module

    class RawDetector(module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = detector.backbone, detector.head

        def forward(self, images: Any) -> Any:
            found = self.head(list(self.backbone(images).values()))
            return tuple(found[name] for name in outputs)

    return RawDetector()
