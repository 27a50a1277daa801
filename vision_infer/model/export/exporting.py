"""A network of PyTorch becomes a model: built, written as ONNX at each input size, imported, proved."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import parse_card
from vision_infer.core.errors import ModelError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Built, Family, OnMessage, Order, Origin
from vision_infer.model.export.library import load, quietly
from vision_infer.model.export.random_weights import spread
from vision_infer.model.export.to_onnx import OPSET, check_opset, count_parameters, to_onnx
from vision_infer.model.importing import Proposal, import_model
from vision_infer.model.model_folder import refuse_taken, save_graph

RECORD_FILE = "export.json"
"""beside the graph: what the model was exported from, with what, and how near it is to PyTorch"""
_SEED = 0
Run = Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]
"""float32 [B, 3, H, W], normalised, to the network's outputs by name, as PyTorch computes them"""
Prove = Callable[[Proposal, Mapping[Size, Run]], list[dict[str, Any]]]
"""looks at a proposed model beside PyTorch, tells what it saw, and raises where they differ"""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is to be exported, and what it is to be called."""

    family: str
    """name, or ``module:function``"""
    name: str
    model_dir: Path
    variant: str = ""
    origin: Origin = "random"
    weights: Path | None = None
    inputs: tuple[Size, ...] = ()
    """empty: the variant's usual one"""
    labels: str | None = None
    classes: int | None = None
    opset: int = OPSET
    candidates: int | None = None
    overwrite: bool = False


def export_model(request: ExportRequest, family: Family, on_message: OnMessage, prove: Prove) -> Path:
    """Export a network.

    Args:
        request: what.
        family: how it is built.
        say: is told what happens, a line each.
        prove: compares the graphs with PyTorch before they are put in their place.

    Returns:
        The new model's graph.

    Raises:
        UsageError: the operator set or the input size is none that can be.
        ModelError: the name is taken, PyTorch is missing, the weights do not fit, the network cannot be exported, or the graph
            does not give what PyTorch gives; nothing is left behind.
    """
    started = time.monotonic()
    parse_card({"name": request.name, "input": {"width": 1, "height": 1}}, f"model name '{request.name}'")
    if not request.overwrite:
        refuse_taken(request.model_dir / request.name)
    check_opset(request.opset)
    sizes = tuple(dict.fromkeys(request.inputs)) or (family.input_size(request.variant),)
    for size in sizes:
        _check_size(size, family)
    what = _what(request)
    if request.origin == "random":
        on_message(f"{what}: the weights are RANDOM: this network is UNTRAINED, and what it finds means nothing")
    try:
        with TemporaryDirectory(prefix="vision-infer-export-") as folder:
            return _export(request, family, sizes, Path(folder), started, on_message, prove)
    except OSError as error:
        message = f"{what}: cannot be written on the way: {error.strerror or error}"
        raise ModelError(message, "make room in the folder for temporary files, or set TMPDIR to another one") from error


def _export(
    request: ExportRequest,
    family: Family,
    sizes: tuple[Size, ...],
    folder: Path,
    started: float,
    on_message: OnMessage,
    prove: Prove,
) -> Path:
    what, files, runs = _what(request), {}, {}
    built = None
    for size in sizes:
        built = _build(request, family, size)
        for note in built.notes if size == sizes[0] else ():
            on_message(f"{what}: {note}")
        raw = to_onnx(built, size, request.opset, what)
        files[size] = folder / f"{what.replace('/', '-').replace(':', '-')}-{size.height}x{size.width}.onnx"
        save_graph(raw, files[size])
        runs[size] = _runner(built)
    assert built is not None
    parameters = count_parameters(built.module)
    on_message(f"{what}: {parameters / 1e6:.2f} million parameters, written with opset {request.opset} and a free batch")
    record = _record(request, family, parameters)

    def check(proposal: Proposal) -> None:
        proofs = prove(proposal, runs)
        last = {"proofs": proofs, "seconds": round(time.monotonic() - started, 1)}
        text = json.dumps(record | last, indent=2)
        (proposal.graphs[sizes[0]].parent / RECORD_FILE).write_text(f"{text}\n", encoding="utf-8")

    fields = {"weights": _source(request, what)} | dict(built.card)
    if request.labels is not None:
        fields.pop("labels", None)
    return import_model(
        files[sizes[0]],
        request.name,
        str(fields.pop("head", family.head)),
        labels=request.labels,
        inputs=sizes,
        scores=family.scores,
        model_dir=request.model_dir,
        candidates=request.candidates,
        overwrite=request.overwrite,
        on_message=on_message,
        prove=check,
        about=_checked(fields, what),
        others=files,
    )


def _checked(fields: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Fields of a card as the card holds them."""
    card = parse_card({"name": "x", "input": {"width": 1, "height": 1}} | dict(fields), what)
    return {field: getattr(card, field) for field in fields}


def _build(request: ExportRequest, family: Family, size: Size) -> Built:
    torch = load("torch")
    torch.manual_seed(_SEED)  # so that untrained weights are the same each time, and at each size
    order = Order(request.variant, size, request.origin, request.weights, request.classes)
    with quietly():
        built = family.build(order)
        built.module.eval()
        built = replace(built, module=_plain(built))
        if request.origin == "random":
            spread(built.module, size)
    return built


def _plain(built: Built) -> Any:
    """The network as one that gives a tuple of tensors, whatever it gives itself."""
    torch = load("torch")
    inner, names = built.module, built.outputs
    base: Any = torch.nn.Module

    class Plain(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = inner

        def forward(self, images: Any) -> Any:
            found = self.network(images)
            if isinstance(found, torch.Tensor):
                return (found,)
            return tuple(found[name] for name in names) if isinstance(found, dict) else tuple(found)

    return Plain().eval()


def _runner(built: Built) -> Run:
    torch = load("torch")

    def run(images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            found = built.module(torch.from_numpy(images))
        return {name: tensor.numpy() for name, tensor in zip(built.outputs, found, strict=True)}

    return run


def _what(request: ExportRequest) -> str:
    return f"{request.family}/{request.variant}" if request.variant else request.family


def _check_size(size: Size, family: Family) -> None:
    if size.width % family.multiple or size.height % family.multiple:
        message = f"--input {size.height}x{size.width}: {family.title} takes multiples of {family.multiple}"
        near = [max(1, round(side / family.multiple)) * family.multiple for side in (size.height, size.width)]
        raise UsageError(message, f"write --input {near[0]}x{near[1]}")


def _source(request: ExportRequest, what: str) -> dict[str, str]:
    """Where the weights are from, for the card."""
    if request.weights is None:
        return {"source": f"{what}, random weights: untrained" if request.origin == "random" else what}
    with request.weights.open("rb") as stream:
        return {"source": request.weights.name, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _record(request: ExportRequest, family: Family, parameters: int) -> dict[str, Any]:
    versions = {}
    for package in ("torch", "onnx", *{"torch": ()}.get(family.library, (family.library,))):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - a library that is there without its metadata
            versions[package] = ""
    return {
        "family": request.family,
        "variant": request.variant,
        "weights": request.origin,
        "trained": request.origin != "random",
        "parameters": parameters,
        "opset": request.opset,
        "versions": versions,
    }
