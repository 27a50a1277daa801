"""``model quantize``: convert a deployment graph to FP16 or INT8, and verify its loss of accuracy against a budget.

Calibration, search and evaluation use different frames; those for evaluation are used once, at the end.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from vision_infer.model.catalog import CARD_FILE, model_dir, model_inputs, resolve_model
from vision_infer.model.fp16_weights import store_weights_fp16
from vision_infer.model.graph import read_card, write_card
from vision_infer.model.model_folder import card_to_yaml
from vision_infer.precision.frames import FrameNeeds, Frames, in_words
from vision_infer.precision.quantization.fp16 import float_tensors, large_tensors, to_half
from vision_infer.precision.quantization.int8 import FORMS, Form, Int8Recipe, calibrated_tensors, simplify
from vision_infer.precision.quantization.ranges import collect_activations
from vision_infer.precision.quantization.search import LayerSearch, SearchResult
from vision_infer.precision.target import choose_target, converting, write_target
from vision_infer.precision.verification.agreement import MIN_FRAMES_TO_JUDGE, Judge
from vision_infer.precision.verification.engine_check import (
    Compare,
    EngineVerification,
    Origin,
    make_passport,
    open_reference,
    verify_engines,
)
from vision_infer.precision.worst_images import write_worst

OnMessage = Callable[[str], None]
VNNI = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
"""The instructions that multiply uint8 by int8 and add in 32 bits; without them, 16 bits saturate."""


@dataclass(frozen=True, slots=True)
class QuantizeRequest:
    """The conversion to perform."""

    model: str
    """The name of a model, or a deployment graph (.onnx), in FP32."""
    data: tuple[str, ...]
    """The sources of frames."""
    precision: Literal["fp16", "int8"] = "int8"
    form: Form = "cpu"
    """The form of INT8."""
    budget: float = 1.0
    """The maximum loss in points, at the upper end of the interval."""
    accept_loss: bool = False
    """Whether to write the graph regardless of its loss. The passport of the runtime with the smallest loss records it."""
    name: str | None = None
    """The name of a new model; None: next to its source."""
    model_dir: Path | None = None
    """The folder of the user's models."""
    overwrite: bool = False
    time_limit_s: float = 600.0
    """The time limit of the search of layers."""
    pictures: Path | None = None
    """The folder for images of the frames that differ most."""
    needs: FrameNeeds = field(default_factory=FrameNeeds)
    judge: Callable[[Path], tuple[Compare, str]] | None = None
    """Another judge than FP32 on ``data``: takes the FP32 graph, and returns a comparison and its data in words."""
    ask: Callable[[str], bool] = lambda _: False
    """Receives the reason for a refusal, and returns whether the user accepts the loss."""


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """The converted graph and its verifications."""

    path: Path
    passports: tuple[Passport, ...]
    engines: tuple[EngineVerification, ...]
    best: EngineVerification
    """The fastest engine within the budget; without any, the one with the smallest loss."""
    found: SearchResult | None
    """The result of the search, for INT8."""
    pictures: tuple[str, ...]
    accepted: str
    """The reason for a refusal of the best engine without ``accept_loss``; empty if its loss is within the budget."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "path": str(self.path),
            "accepted_loss": self.accepted or None,
            "layers_kept": [] if self.found is None else sorted(self.found.recipe.kept),
            "calibration": None if self.found is None else self.found.method,
            "passports": [passport.model_dump(mode="json") for passport in self.passports],
            "agreement": {verified.engine: verified.agreement.to_dict() for verified in self.engines},
            "pictures": list(self.pictures),
        }


def quantize_sizes(
    request: QuantizeRequest, on_message: OnMessage = lambda _: None, clock: Clock = SYSTEM_CLOCK
) -> Iterator[QuantizeReport]:
    """Convert a model for each of its input sizes; each graph is verified and written, or refused, independently.

    Args:
        request: The conversion; a file (.onnx), or a conversion with a new name, has one size. Images of additional sizes go into
            subfolders.
        on_message: As for :func:`quantize_model`, which has the errors.
        clock: Likewise.
    """
    graphs = {} if request.model.endswith(".onnx") else model_inputs(request.model, request.model_dir)
    if len(graphs) < 2 or request.name is not None:
        yield quantize_model(request, on_message, clock)
        return
    for number, (size, path) in enumerate(graphs.items()):
        on_message(f"{path.name}: {size} (width x height)")
        folder = request.pictures / f"{size.height}x{size.width}" if request.pictures is not None and number else request.pictures
        yield quantize_model(replace(request, model=str(path), pictures=folder), on_message, clock)


def quantize_model(
    request: QuantizeRequest, on_message: OnMessage = lambda _: None, clock: Clock = SYSTEM_CLOCK
) -> QuantizeReport:
    """Convert a model, verify it, and write it if its loss is within the budget.

    Args:
        request: The conversion.
        on_message: Receives the progress, one line at a time.
        clock: The clock for the time limit and the passport's date.

    Raises:
        UsageError: Options are invalid, or a source does not exist.
        ModelError: The model is not an FP32 deployment graph, cannot be converted, exists, loses too much, or another process is
            converting it.
        StreamError: There are too few frames, or they cannot be read.
        OutputError: There is no space for frames or images.
    """
    _check(request)
    source = resolve_model(request.model, request.model_dir)
    facts = read_graph_facts(source)
    if facts.precision != "fp32":
        raise ModelError(f"{request.model} is already in {facts.precision}", "Use the model in FP32.")
    card = facts.card
    what = request.precision if request.precision == "fp16" or request.form == "cpu" else f"int8-{request.form}"
    folder = model_dir(request.model_dir, os.environ)
    target = choose_target(source, card.name, what, request.name, folder, request.overwrite)
    with ExitStack() as stack:
        stack.enter_context(converting(source))
        frames = stack.enter_context(Frames(request.data, card, request.needs, clock, on_message))
        count = len(frames.evaluation)
        on_message(f"{len(frames.calibration)} frames for calibration, {len(frames.search)} for search, {count} for evaluation")
        if count < MIN_FRAMES_TO_JUDGE and request.judge is None and not request.accept_loss:
            message = f"{card.name}: {count} evaluation frames are too few; at least {MIN_FRAMES_TO_JUDGE} are needed"
            hint = "Add more --data: about 20 seconds of video with motion, a camera, or as many images. "
            hint += f"{request.needs.total} frames are best. Add --accept-loss to skip the verification."
            raise StreamError(message, hint)
        reference = stack.enter_context(open_reference(source))
        on_message("measuring the activations of the layers on the calibration frames")
        model, found, layers = _convert(source, card, request, frames, reference, on_message, clock)
        model = _finished(model, card, target.model)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vision-infer-")))
        graph = work / target.graph
        _save(model, graph)
        on_message(f"running FP32 on the {count} evaluation frames")
        judge = Judge(reference, frames.evaluation)
        compare, data = (judge.compare, in_words(request.data)) if request.judge is None else request.judge(source)
        engines = verify_engines(graph, source, compare, on_message)
        best = _best(engines, request.budget)
        drawn = write_worst(request.pictures, judge, graph, best, request.overwrite)
        origin = Origin(graph_sha256(source), frames.calibration.sha256(), frames.evaluation.sha256(), data, layers)
        refusal = best.refusal(request.budget)
        if refusal and not (request.accept_loss or request.ask(f"{card.name} in {what} with {best.engine}: {refusal}")):
            raise _refused(card.name, what, refusal, best, found)
        passports = tuple(make_passport(graph, one, origin, clock, accepted=bool(refusal) and one is best) for one in engines)
        files: dict[str, bytes | str] = {passport_file(graph, one.engine).name: one.to_json() for one in passports}
        if request.name is not None:
            files[CARD_FILE] = card_to_yaml(read_card(model, target.graph) or card)
        write_target(target, files | {target.graph: graph.read_bytes()})
    return QuantizeReport(target.path, passports, tuple(engines), best, found, drawn, refusal)


def _best(engines: Sequence[EngineVerification], budget: float) -> EngineVerification:
    """Return the fastest engine within the budget; without any, the one that loses least: some runtimes give wrong results."""
    within = [engine for engine in engines if not engine.refusal(budget)]
    if within:
        return max(within, key=lambda engine: engine.times_faster.times.median)
    return min(engines, key=lambda engine: engine.agreement.lost.high)


def _check(request: QuantizeRequest) -> None:
    if not request.data:
        raise UsageError("--data is missing: there are no frames for the calibration", "Add a video, images or a folder.")
    if request.form not in FORMS:
        raise UsageError(f"--form {request.form}: unknown", f"Use {' or '.join(FORMS)}.")
    if request.precision not in ("fp16", "int8"):
        raise UsageError(f"--precision {request.precision}: unknown", "Use fp16 or int8.")
    if not request.budget >= 0:
        raise UsageError(f"--budget {request.budget:g}: must be at least 0", "1 is one point of mAP.")


def _convert(
    source: Path, card: ModelCard, request: QuantizeRequest, frames: Frames, reference: Any, on_message: OnMessage, clock: Clock
) -> tuple[onnx.ModelProto, SearchResult | None, Mapping[str, str]]:
    """Return the converted graph, the result of the search, and the precision of its groups of layers."""
    simple = simplify(onnx.load(source), card.name)
    pixels = frames.calibration.pixels
    if request.precision == "fp16":
        large = large_tensors(collect_activations(simple, float_tensors(simple), pixels[:16], card.name))
        half = to_half(simple, large, card.name)
        layers = {"network": "fp16", "sums, exponentials, sorting": "fp32", "box decoding": "fp32"}
        return half.model, None, layers | ({"large values": "fp32"} if half.kept else {})
    activations = collect_activations(simple, calibrated_tensors(simple), pixels, card.name)
    on_message(f"running FP32 on the {len(frames.search)} search frames")
    search = LayerSearch(simple, activations, Judge(reference, frames.search), open_reference, card.name, on_message, clock)
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
    """Return the graph with its name on the card, and with FP32 weights stored as FP16 where that is exact."""
    inside = read_card(model, card.name)
    assert inside is not None
    stored = store_weights_fp16(model, tolerance=0)
    write_card(stored, inside.model_copy(update={"name": name}))
    return stored


def _save(model: onnx.ModelProto, path: Path) -> None:
    try:
        path.write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}", "Free disk space there, or set TMPDIR.") from error


def _refused(name: str, what: str, refusal: str, best: EngineVerification, found: SearchResult | None) -> ModelError:
    gain = f"it would be {best.times_faster.times.median:.1f} times as fast as FP32"
    kept = "" if found is None or not found.recipe.kept else f", with {len(found.recipe.kept)} of {found.count} layers in FP32"
    hint = "Add more or longer --data to narrow the interval, or accept the loss with --budget or --accept-loss."
    if found is not None and not found.finished:
        hint = f"The search reached its time limit; a longer --time-limit may find a better graph. {hint}"
    return ModelError(f"{name} in {what} is refused: {refusal}; {gain} ({best.engine}{kept})", hint)
