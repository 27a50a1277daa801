"""Models of torchvision with random weights, exported once and kept in ``tests/.media`` by a hash of the recipe.

Detectors are exported without their post-processing: the importer requires the outputs of the head.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import io
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.media import MEDIA


def exported(name: str) -> Path:
    """Return the ONNX file of a model; skip the test if torch or torchvision is not installed."""
    torch, torchvision = load("torch"), load("torchvision")
    recipe = inspect.getsource(_RECIPES[name]) + inspect.getsource(_export) + torch.__version__ + torchvision.__version__
    path = MEDIA / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.onnx"
    if not path.is_file():
        MEDIA.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}-{path.name}")
        _export(*_RECIPES[name](), temporary)
        temporary.replace(path)
    return path


def need_torch() -> None:
    """Skip a test module if torch or torchvision is not installed, without their import, which takes 2 s in every worker."""
    if find_spec("torch") is None or find_spec("torchvision") is None:
        pytest.skip("torch is not here: install the export extra", allow_module_level=True)


def load(module: str) -> Any:
    """Return a module of the export extra; skip the test if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        pytest.skip("torch is not here: install the export extra")


def _export(model: Any, side: int, outputs: list[str], path: Path) -> None:
    """Export with the dynamo exporter and a dynamic batch, all weights inside the file."""
    torch = load("torch")

    model.eval()
    images = torch.zeros(2, 3, side, side)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images,),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )


def _raw(detector: Any, outputs: list[str]) -> Any:
    """Return the backbone and head of a detector, without pre- and post-processing."""
    module: Any = load("torch").nn.Module

    class Raw(module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = detector.backbone, detector.head

        def forward(self, images: Any) -> Any:
            found = self.head(list(self.backbone(images).values()))
            return tuple(found[name] for name in outputs)

    return Raw()


def _pyramid(first: int = 2, levels: int = 7, width: int = 16) -> Any:
    """Return a tiny backbone with maps of the strides 2 ** (first + 1) to 2 ** levels, of ``width`` channels each."""
    torch = load("torch")
    module: Any = torch.nn.Module

    class Pyramid(module):  # type: ignore[misc]
        out_channels = width

        def __init__(self) -> None:
            super().__init__()
            channels = [3, 8, *[width] * (levels - 1)]
            self.steps = torch.nn.ModuleList(torch.nn.Conv2d(left, right, 3, 2, 1) for left, right in pairwise(channels))

        def forward(self, images: Any) -> Any:
            maps, values = OrderedDict(), images
            for number, step in enumerate(self.steps):
                values = torch.relu(step(values))
                if number >= first:
                    maps[str(number)] = values
            return maps

    return Pyramid()


def _spread(model: Any) -> Any:
    """Initialize with large random weights, so that boxes and scores vary; those of new heads are nearly constant."""
    torch = load("torch")

    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    torch.nn.init.normal_(module.bias, 0.0, 0.2)
    return model


def _ssdlite() -> tuple[Any, int, list[str]]:
    """Return the head and default boxes of SSDLite on a tiny backbone."""
    detection = load("torchvision.models.detection")
    torch, boxes = load("torch"), detection.anchor_utils.DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    norm = partial(torch.nn.BatchNorm2d, eps=0.001, momentum=0.03)
    head = detection.ssdlite.SSDLiteHead([16] * 6, boxes.num_anchors_per_location(), 5, norm)
    outputs = ["cls_logits", "bbox_regression"]
    return _spread(_raw(detection.ssd.SSD(_pyramid(3, 9), boxes, (320, 320), 5, head=head), outputs)), 320, outputs


def _retinanet() -> tuple[Any, int, list[str]]:
    detection = load("torchvision.models.detection")
    outputs, anchors = ["cls_logits", "bbox_regression"], detection.retinanet._default_anchorgen()
    return _spread(_raw(detection.RetinaNet(_pyramid(), 4, anchor_generator=anchors), outputs)), 160, outputs


def _fcos() -> tuple[Any, int, list[str]]:
    outputs = ["cls_logits", "bbox_regression", "bbox_ctrness"]
    return _spread(_raw(load("torchvision.models.detection").FCOS(_pyramid(width=32), 4), outputs)), 160, outputs


def _mobilenet() -> tuple[Any, int, list[str]]:
    return _spread(load("torchvision.models").mobilenet_v3_small(weights=None, num_classes=20)), 96, ["logits"]


def _embedder() -> tuple[Any, int, list[str]]:
    torch, ops = load("torch"), load("torchvision.ops")
    layers = [ops.Conv2dNormActivation(*pair, stride=2) for pair in pairwise([3, 16, 32, 64])]
    end = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 48)]
    return _spread(torch.nn.Sequential(*layers, *end)), 96, ["embedding"]


_RECIPES: dict[str, Callable[[], tuple[Any, int, list[str]]]] = {
    "ssdlite": _ssdlite,
    "retinanet": _retinanet,
    "fcos": _fcos,
    "mobilenet": _mobilenet,
    "embedder": _embedder,
}
