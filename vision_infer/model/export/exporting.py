"""Export of a PyTorch model: build it, write it as ONNX for each input size, import it and verify it."""

from __future__ import annotations

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
from vision_infer.model.export.to_onnx import OPSET, check_opset, to_onnx
from vision_infer.model.importing import ImportRequest, Proposal, import_model
from vision_infer.model.model_folder import refuse_taken, save_graph
from vision_infer.model.pull.checksum import hash_file

RECORD_FILE = "export.json"
"""The record next to the graph: source and versions of the export, and its differences to PyTorch."""
_SEED = 0
Run = Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]
"""Takes normalized images, float32 [B, 3, H, W], and returns the outputs of the model in PyTorch by name."""
VerifyExport = Callable[[Proposal, Mapping[Size, Run]], list[dict[str, Any]]]
"""Compares a proposed model with PyTorch, returns the records of the verification, and raises ModelError if they differ."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The model to export, and its new name."""

    family: str
    """The name of the family, or ``module:function``."""
    name: str
    """The name of the new model."""
    model_dir: Path
    """The folder of the user's models."""
    variant: str = ""
    """The variant of the family; empty for a function."""
    origin: Origin = "random"
    """The origin of the weights."""
    weights: Path | None = None
    """The file of the weights."""
    inputs: tuple[Size, ...] = ()
    """The input sizes; empty: the default of the variant."""
    labels: str | None = None
    """``"coco"``, or a file with one label per line."""
    classes: int | None = None
    """The number of classes; None: that of the official weights."""
    prompts: tuple[str, ...] = ()
    """The texts that describe what an open-vocabulary model detects."""
    opset: int = OPSET
    """The ONNX operator set."""
    candidates: int | None = None
    """The maximum number of boxes per image; None: the default."""
    overwrite: bool = False
    """Whether to replace a model of the same name."""


def export_model(request: ExportRequest, family: Family, on_message: OnMessage, verify: VerifyExport) -> Path:
    """Export a PyTorch model.

    Args:
        request: The model to export.
        family: Builds the model.
        on_message: Receives the progress, one line at a time.
        verify: Compares the graphs with PyTorch before they are moved to their place.

    Returns:
        The graph of the new model.

    Raises:
        UsageError: The operator set or the input size is not possible.
        ModelError: The name is taken, PyTorch is missing, the weights do not fit, the model cannot be exported, or the results
            of the graph differ from those of PyTorch. No files are left.
    """
    started = time.monotonic()
    parse_card({"name": request.name, "input": {"width": 1, "height": 1}}, f"model name '{request.name}'")
    if not request.overwrite:
        refuse_taken(request.model_dir / request.name)
    check_opset(request.opset)
    if request.prompts and not family.prompts:
        raise UsageError(f"--prompts: {family.title} has fixed classes", "Remove it, or choose owlv2.")
    sizes = tuple(dict.fromkeys(request.inputs)) or (family.input_size(request.variant),)
    for size in sizes:
        _check_size(size, family)
    what = _what(request)
    if request.origin == "random":
        on_message(f"{what}: the weights are RANDOM: this model is UNTRAINED, and its results are meaningless")
    try:
        with TemporaryDirectory(prefix="vision-infer-export-") as folder:
            return _export(request, family, sizes, Path(folder), started, on_message, verify)
    except OSError as error:
        message = f"{what}: a temporary file cannot be written: {error.strerror or error}"
        raise ModelError(message, "Free space in the temporary folder, or set TMPDIR to another folder.") from error


def _export(
    request: ExportRequest,
    family: Family,
    sizes: tuple[Size, ...],
    folder: Path,
    started: float,
    on_message: OnMessage,
    verify: VerifyExport,
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
    parameters = sum(int(tensor.numel()) for tensor in built.module.parameters())
    on_message(f"{what}: {parameters / 1e6:.2f} million parameters, opset {request.opset}, dynamic batch")
    record = _record(request, family, parameters)

    def check(proposal: Proposal) -> None:
        last = {"proofs": verify(proposal, runs), "seconds": round(time.monotonic() - started, 1)}
        text = json.dumps(record | last, indent=2)
        (proposal.graphs[sizes[0]].parent / RECORD_FILE).write_text(f"{text}\n", encoding="utf-8")

    fields = {"weights": _source(request, what)} | dict(built.card)
    if request.labels is not None:
        fields.pop("labels", None)
    to_import = ImportRequest(
        files[sizes[0]],
        request.name,
        request.model_dir,
        head=str(fields.pop("head", family.head)),
        labels=request.labels,
        inputs=sizes,
        scores=family.scores,
        candidates=request.candidates,
        overwrite=request.overwrite,
        about=_checked(fields, what),
        others=files,
    )
    return import_model(to_import, on_message, check)


def _checked(fields: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return fields of a card, validated."""
    card = parse_card({"name": "x", "input": {"width": 1, "height": 1}} | dict(fields), what)
    return {field: getattr(card, field) for field in fields}


def _build(request: ExportRequest, family: Family, size: Size) -> Built:
    torch = load("torch")
    torch.manual_seed(_SEED)  # the same random weights for each run and each size
    order = Order(request.variant, size, request.origin, request.weights, request.classes, request.prompts)
    with quietly():
        built = family.build(order)
        built.module.eval()
        built = replace(built, module=_with_tuple_outputs(built))
        if request.origin == "random":
            spread(built.module, size)
    return built


def _with_tuple_outputs(built: Built) -> Any:
    """Wrap a model so that it returns a tuple of tensors instead of a tensor, a dictionary or a list."""
    torch = load("torch")
    inner, names = built.module, built.outputs
    base: Any = torch.nn.Module

    class TupleOutputs(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = inner

        def forward(self, images: Any) -> Any:
            found = self.network(images)
            if isinstance(found, torch.Tensor):
                return (found,)
            return tuple(found[name] for name in names) if isinstance(found, dict) else tuple(found)

    return TupleOutputs().eval()


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
        message = f"--input {size.height}x{size.width}: the sides must be multiples of {family.multiple} for {family.title}"
        near = [max(1, round(side / family.multiple)) * family.multiple for side in (size.height, size.width)]
        raise UsageError(message, f"Use --input {near[0]}x{near[1]}.")


def _source(request: ExportRequest, what: str) -> dict[str, str]:
    """Return the origin of the weights, for the card."""
    if request.weights is None:
        return {"source": f"{what}, random weights: untrained" if request.origin == "random" else what}
    return {"source": request.weights.name, "sha256": hash_file(request.weights)}


def _record(request: ExportRequest, family: Family, parameters: int) -> dict[str, Any]:
    versions = {}
    for package in ("torch", "onnx", *{"torch": ()}.get(family.library, (family.library,))):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - an installed library without metadata
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
