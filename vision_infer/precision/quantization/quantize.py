"""``model quantize``: a deployment graph in FP16 or INT8, with the proof of what it loses, or refused.

Calibration, search and evaluation have frames of their own. The last are looked at once, when all is decided.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import ModelError, StreamError, UsageError
from vision_infer.engine.device import cpu_facts
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.store.engine_key import graph_sha256
from vision_infer.engine.store.passport import Passport, passport_file
from vision_infer.model.catalogue import CARD_FILE, model_dir, model_inputs, resolve_model
from vision_infer.model.fp16_weights import store_weights_fp16
from vision_infer.model.graph import read_card, write_card
from vision_infer.model.model_folder import card_to_yaml
from vision_infer.precision.frames import FrameNeeds, Frames, in_words
from vision_infer.precision.pictures import write_worst
from vision_infer.precision.quantization.fp16 import float_tensors, large_tensors, to_half
from vision_infer.precision.quantization.int8 import FORMS, Form, Int8Recipe, calibrated_tensors, simplify
from vision_infer.precision.quantization.ranges import collect_activations
from vision_infer.precision.quantization.search import Found, Search
from vision_infer.precision.target import choose_target, converting, write_target
from vision_infer.precision.verification.agreement import FRAMES_NEEDED, Judge
from vision_infer.precision.verification.proof import Compare, Origin, Proof, make_passport, open_reference, prove

OnMessage = Callable[[str], None]
VNNI = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
"""instructions that multiply uint8 by int8 and add in 32 bits: without one, 16 bits saturate"""


@dataclass(frozen=True, slots=True)
class QuantizeRequest:
    """What is wanted."""

    model: str
    """a model's name, or a deployment graph (.onnx), in FP32"""
    data: tuple[str, ...]
    """sources of frames"""
    precision: Literal["fp16", "int8"] = "int8"
    form: Form = "cpu"
    """of INT8"""
    budget: float = 1.0
    """points that may be lost, at the upper end of the interval"""
    accept_loss: bool = False
    """write it whatever it loses"""
    name: str | None = None
    """of a model of its own; None: beside its source"""
    model_dir: Path | None = None
    """the user's models"""
    overwrite: bool = False
    time_limit_s: float = 600.0
    """for the search of layers; what comes after it takes its own time"""
    pictures: Path | None = None
    """folder for the frames that differ most"""
    needs: FrameNeeds = field(default_factory=FrameNeeds)
    judge: Callable[[Path], tuple[Compare, str]] | None = None
    """another judge than FP32 on ``data``, given the FP32 graph: compares engines, and says on what"""


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """What was made, and what it is worth."""

    path: Path
    passports: tuple[Passport, ...]
    proofs: tuple[Proof, ...]
    found: Found | None
    """of INT8: the search"""
    pictures: tuple[str, ...]
    accepted: str
    """why it would have been refused without ``accept_loss``; empty: it is within the budget"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "path": str(self.path),
            "accepted_loss": self.accepted or None,
            "layers_kept": [] if self.found is None else sorted(self.found.recipe.kept),
            "calibration": None if self.found is None else self.found.method,
            "passports": [passport.model_dump(mode="json") for passport in self.passports],
            "agreement": {proof.engine: proof.agreement.to_dict() for proof in self.proofs},
            "pictures": list(self.pictures),
        }


def quantize_sizes(
    request: QuantizeRequest, on_message: OnMessage = lambda _: None, clock: Clock = SYSTEM_CLOCK
) -> Iterator[QuantizeReport]:
    """Convert a model for each of its input sizes, one after the other: each is proved and kept, or refused, by itself.

    Args:
        request: a file (.onnx), or what gets a name of its own, has one size. Pictures of other sizes than the model's own go
            into folders of their own.
        say: as for :func:`quantize_model`, which says what is raised.
        clock: likewise.
    """
    graphs = {} if request.model.endswith(".onnx") else model_inputs(request.model, request.model_dir)
    if len(graphs) < 2 or request.name is not None:
        yield quantize_model(request, on_message, clock)
        return
    for number, (size, path) in enumerate(graphs.items()):
        on_message(f"{path.name}: {size.width} wide and {size.height} high")
        folder = request.pictures / f"{size.height}x{size.width}" if request.pictures is not None and number else request.pictures
        yield quantize_model(replace(request, model=str(path), pictures=folder), on_message, clock)


def quantize_model(
    request: QuantizeRequest, on_message: OnMessage = lambda _: None, clock: Clock = SYSTEM_CLOCK
) -> QuantizeReport:
    """Convert a model, prove it, and keep it if the budget holds.

    Args:
        request: what is wanted.
        say: is told each step, a line each.
        clock: of the time limit and of the passport's date.

    Raises:
        UsageError: options that do not fit together, or a source that names nothing.
        ModelError: the model is no FP32 deployment graph, cannot be converted, exists already, loses too much, or another process
            is at work on it.
        StreamError: there are too few frames, or they cannot be read.
        OutputError: no space for frames or pictures.
    """
    _check(request)
    source = resolve_model(request.model, request.model_dir)
    facts = read_graph_facts(source)
    if facts.precision != "fp32":
        raise ModelError(f"{request.model} is in {facts.precision} already", "give the model in FP32")
    card = facts.card
    what = request.precision if request.precision == "fp16" or request.form == "cpu" else f"int8-{request.form}"
    folder = model_dir(request.model_dir, os.environ)
    target = choose_target(source, card.name, what, request.name, folder, request.overwrite)
    with ExitStack() as stack:
        stack.enter_context(converting(source))
        frames = stack.enter_context(Frames(request.data, card, request.needs, clock, on_message))
        on_message(
            f"{len(frames.calibration)} frames to calibrate, {len(frames.search)} to search, {len(frames.evaluation)} to judge by"
        )
        if len(frames.evaluation) < FRAMES_NEEDED and request.judge is None and not request.accept_loss:
            message = f"{card.name}: {len(frames.evaluation)} frames to judge by prove nothing, {FRAMES_NEEDED} are needed"
            hint = "add more --data: about 20 seconds of video in which things move, a camera, or as many pictures; "
            hint += f"{request.needs.total} frames are best, and --accept-loss does without a proof"
            raise StreamError(message, hint)
        reference = stack.enter_context(open_reference(source))
        on_message("looking at what the network's layers give, on the frames to calibrate")
        model, found, layers = _convert(source, card, request, frames, reference, on_message, clock)
        model = _finished(model, card, target.model)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vision-infer-")))
        graph = work / target.graph
        _save(model, graph)
        on_message(f"running FP32 on the {len(frames.evaluation)} frames to judge by")
        judge = Judge(reference, frames.evaluation)
        compare, data = (judge.compare, in_words(request.data)) if request.judge is None else request.judge(source)
        proofs = prove(graph, source, compare, on_message)
        best = min(proofs, key=lambda proof: (bool(proof.refusal(request.budget)), -proof.times_faster.times.median))
        drawn = write_worst(request.pictures, judge, graph, best, request.overwrite)
        origin = Origin(graph_sha256(source), frames.calibration.sha256(), frames.evaluation.sha256(), data, layers)
        passports = tuple(make_passport(graph, proof, origin, clock) for proof in proofs)
        refusal = best.refusal(request.budget)
        if refusal and not request.accept_loss:
            raise _refused(card.name, what, refusal, best, found)
        files: dict[str, bytes | str] = {passport_file(graph, one.engine).name: one.to_json() for one in passports}
        if request.name is not None:
            files[CARD_FILE] = card_to_yaml(read_card(model, target.graph) or card)
        write_target(target, files | {target.graph: graph.read_bytes()})
    return QuantizeReport(target.path, passports, tuple(proofs), found, drawn, refusal)


def _check(request: QuantizeRequest) -> None:
    if not request.data:
        raise UsageError("--data is missing: there are no frames to calibrate on", "give a video, pictures or a folder")
    if request.form not in FORMS:
        raise UsageError(f"--form {request.form}: unknown", f"use {' or '.join(FORMS)}")
    if request.precision not in ("fp16", "int8"):
        raise UsageError(f"--precision {request.precision}: unknown", "use fp16 or int8")
    if not request.budget >= 0:
        raise UsageError(f"--budget {request.budget:g}: must be at least 0", "1 is one point of mAP")


def _convert(
    source: Path, card: ModelCard, request: QuantizeRequest, frames: Frames, reference: Any, on_message: OnMessage, clock: Clock
) -> tuple[onnx.ModelProto, Found | None, Mapping[str, str]]:
    """The converted graph, how it was found, and the precision of its groups of layers."""
    simple = simplify(onnx.load(source), card.name)
    pixels = frames.calibration.pixels
    if request.precision == "fp16":
        large = large_tensors(collect_activations(simple, float_tensors(simple), pixels[:16], card.name))
        half = to_half(simple, large, card.name)
        layers = {"network": "fp16", "sums, exponentials, sorting": "fp32", "box decoding": "fp32"}
        return half.model, None, layers | ({"large values": "fp32"} if half.kept else {})
    activations = collect_activations(simple, calibrated_tensors(simple), pixels, card.name)
    on_message(f"running FP32 on the {len(frames.search)} frames to search with")
    search = Search(simple, activations, Judge(reference, frames.search), open_reference, card.name, on_message, clock)
    reduced = request.form == "cpu" and VNNI.isdisjoint(cpu_facts()[1])
    found = search.run(Int8Recipe(request.form, reduced_range=reduced), request.budget, request.time_limit_s)
    kept = len(found.recipe.kept)
    activation = "u8" if request.form == "cpu" else "s8"
    layers = {
        "convolutions": f"int8 ({activation} activations, {'7-bit' if reduced else 's8'} weights per channel)",
        "layers": f"{found.count - kept} of {found.count} in int8, {kept} kept in fp32",
        "prediction": "fp32",
        "box decoding": "fp32",
        "calibration": found.method,
    }
    if found.correction is not None:
        layers["scores"] = f"corrected, {found.correction}"
    return found.model, found, layers


def _finished(model: onnx.ModelProto, card: ModelCard, name: str) -> onnx.ModelProto:
    """The graph as it is kept: with its name on the card, and FP32 weights that are exact in FP16 stored so."""
    inside = read_card(model, card.name)
    assert inside is not None
    stored = store_weights_fp16(model, tolerance=0)
    write_card(stored, inside.model_copy(update={"name": name}))
    return stored


def _save(model: onnx.ModelProto, path: Path) -> None:
    try:
        path.write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}", "make room there, or set TMPDIR") from error


def _refused(name: str, what: str, refusal: str, best: Proof, found: Found | None) -> ModelError:
    gain = f"it would be {best.times_faster.times.median:.1f} times as fast as FP32"
    kept = "" if found is None or not found.recipe.kept else f", with {len(found.recipe.kept)} of {found.count} layers in FP32"
    hint = "more or longer --data narrows the interval; --budget or --accept-loss takes it as it is"
    if found is not None and not found.finished:
        hint = f"the search ended with its time, a longer --time-limit may find a better one; {hint}"
    return ModelError(f"{name} in {what} is refused: {refusal}; {gain} ({best.engine}{kept})", hint)
