"""Deployment graphs of small torchvision models: a detector, a classifier, an embedder, built once per session."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from tests.support.exported import exported
from tests.support.media import MEDIA
from vision_infer.model.importing import ImportRequest, import_model

Kind = Literal["detector", "classifier", "embedder"]
_EXPORTED: dict[Kind, tuple[str, str]] = {
    "detector": ("ssdlite", "ssd"),
    "classifier": ("mobilenet", "classify"),
    "embedder": ("embedder", "embed"),
}
"""The name in tests.support.exported, and the head."""


@cache
def deployment_graph(kind: Kind) -> Path:
    """Return the deployment graph of a model with random weights; skip the test if torch or torchvision is not installed.

    SSDLite at 320 x 320 with 5 classes (0.3 MB), MobileNetV3-small at 96 x 96 with 20 classes (6 MB), and three convolutions at
    96 x 96 that give a vector of 48. The raw network is exported once a machine (seconds), the graph is made of it once a
    session.
    """
    name, head = _EXPORTED[kind]
    path = MEDIA / f"deployment-{kind}.onnx"
    with TemporaryDirectory() as folder:
        made = import_model(ImportRequest(exported(name), f"smallest-{kind}", head=head, model_dir=Path(folder)))
        temporary = path.with_name(f".{os.getpid()}-{path.name}")
        temporary.write_bytes(made.read_bytes())
        temporary.replace(path)
    return path
