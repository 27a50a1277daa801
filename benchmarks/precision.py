"""Measure the accuracy and speed of FP16, bfloat16 and INT8: the table of docs/reference/measured-precision.md.

    make precision-table                    the three models of ASSETS, into benchmarks/results/precision.md
    python -m benchmarks.precision MODEL… --data VIDEO… --labels instances.json --images DIR [--out FILE.md]

A model is a name in the catalog, a deployment graph, or a raw model (NAME=FILE.onnx), which is imported first. If INT8 with all
layers exceeds the budget, a second row shows the result of the search for layers to keep. Calibration and search use separate
frames, and neither uses the annotated images. Times are measured in turn with FP32 on ONNX Runtime.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import onnx

from vision_infer.core.errors import VisionInferError
from vision_infer.engine.device import available_cpus, cpu_facts
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import faster, measure_speed
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.registry import runtime_version
from vision_infer.model.catalog import resolve_model
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.precision.accuracy import read_annotations
from vision_infer.precision.frames import FrameNeeds, Frames, FrameSet
from vision_infer.precision.labeled import LabeledJudge
from vision_infer.precision.quantization.fp16 import float_tensors, large_tensors, to_half
from vision_infer.precision.quantization.int8 import FORMS, Int8Recipe, calibrated_tensors, quantize, simplify
from vision_infer.precision.quantization.ranges import collect_activations, find_ranges
from vision_infer.precision.quantization.search import LayerSearch
from vision_infer.precision.verification.agreement import TYPICAL_MAP, Judge, published_map
from vision_infer.precision.verification.engine_check import open_reference

BUDGET = 1.0
SEARCH_S = 300.0
HEADINGS = (
    "Model, graph",
    "Runtime",
    "Photographs: found again, IoU",
    "AP lost there: by annotations; by FP32 mirrored",
    "Video: found again, IoU",
    "Detections; scores",
    "Points lost (95 %)",
    "Times FP32",
)


@dataclass(frozen=True)
class Judges:
    """The comparisons of one model with its FP32 graph."""

    video: Judge
    images: Judge
    labels: LabeledJudge


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure the accuracy and speed of precisions.")
    parser.add_argument("models", nargs="+", metavar="MODEL|NAME=FILE.onnx")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--out", type=Path, help="Output file. Default: standard output.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for model in options.models for row in _measure(*_found(model, options.model_dir, Path(folder)), options)]
    name, instructions = cpu_facts()
    versions = ", ".join(f"{name} {runtime_version(name)}" for name in ("onnxruntime", "openvino") if find_spec(name))
    day = datetime.datetime.now(datetime.UTC).date()
    lines = [f"{day}, {name}, {available_cpus()} cores ({' '.join(instructions)}), {versions}", ""]
    lines += [f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}", *(f"| {' | '.join(row)} |" for row in rows)]
    text = "\n".join(lines) + "\n"
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text)


def _found(model: str, model_dir: Path | None, folder: Path) -> tuple[str, Path]:
    """Return the name and the deployment graph of a model."""
    name, _, raw = model.rpartition("=")
    if not name:
        return model, resolve_model(model, model_dir)
    return name, import_model(ImportRequest(Path(raw), name, labels="coco", model_dir=folder))


def _measure(model: str, source: Path, options: argparse.Namespace) -> Iterator[list[str]]:
    with open_reference(source) as fp32, tempfile.TemporaryDirectory() as folder:
        needs = FrameNeeds(calibration=64, search=100, evaluation=200)
        with (
            Frames(options.data, fp32.card, needs) as frames,
            Frames([str(options.images)], fp32.card, FrameNeeds(100, 100, 100)) as all_images,
        ):
            judges = Judges(
                Judge(fp32, frames.evaluation),
                Judge(fp32, _joined(all_images)),
                LabeledJudge(fp32, read_annotations(options.labels), options.images),
            )
            _log(model, f"{judges.labels.compare(fp32).figures['map_fp32']:.2f} mAP in FP32")
            for what, graph in _graphs(model, source, frames, fp32, Path(folder)):
                for runtime, compute in _runtimes(what):
                    yield _row(f"{model}, {what}", EngineRequest(runtime, "cpu", compute=compute), graph, source, judges)


def _joined(frames: Frames) -> FrameSet:
    """Return the three sets as one."""
    sets = (frames.calibration, frames.search, frames.evaluation)
    pixels = [pixels for part in sets for pixels in part.pixels]
    return FrameSet(pixels, sum((part.letterboxes for part in sets), ()), sum((part.names for part in sets), ()))


def _graphs(model: str, source: Path, frames: Frames, fp32: Engine, folder: Path) -> Iterator[tuple[str, Path]]:
    yield "FP32", source
    simple, pixels = simplify(onnx.load(source), model), frames.calibration.pixels
    large = large_tensors(collect_activations(simple, float_tensors(simple), pixels[:16], model))
    yield "FP16", _save(to_half(simple, large, model).model, folder / "fp16.onnx")
    activations = collect_activations(simple, calibrated_tensors(simple), pixels, model)
    judge = Judge(fp32, frames.search)
    for form in FORMS:
        search = LayerSearch(simple, activations, judge, open_reference, model, lambda line: _log(model, line))
        found = search.run(Int8Recipe(form), BUDGET, SEARCH_S)
        whole = quantize(simple, find_ranges(activations, found.method), replace(found.recipe, kept=frozenset()), model)
        yield f"INT8 {form}, all {found.count} layers ({found.method})", _save(whole, folder / f"{form}.onnx")
        if found.recipe.kept or found.correction is not None:
            kept = f"{len(found.recipe.kept)} of {found.count} layers kept"
            corrected = "" if found.correction is None else ", scores corrected"
            yield f"INT8 {form}, {kept}{corrected}", _save(found.model, folder / f"{form}-kept.onnx")


def _runtimes(what: str) -> list[tuple[str, str]]:
    runtimes = [("onnxruntime", "f32")]
    if find_spec("openvino"):
        runtimes += [("openvino", "f32")]
        if what == "FP32" and "avx512_bf16" in cpu_facts()[1]:
            runtimes.append(("openvino", "bf16"))
    return runtimes


def _row(what: str, request: EngineRequest, graph: Path, source: Path, judges: Judges) -> list[str]:
    label = f"{request.engine} {request.compute}" if request.compute == "bf16" else request.engine
    try:
        with open_engine(graph, replace(request, workers=1, threads=available_cpus())) as engine:
            images, video, labels = (judge.compare(engine) for judge in (judges.images, judges.video, judges.labels))
    except VisionInferError as error:
        _log(what, error.message)
        return [what, label, *["–"] * (len(HEADINGS) - 2)]
    with open_engine(graph, request) as engine, open_engine(source, EngineRequest("onnxruntime", "cpu")) as reference:
        rounds = measure_speed({"": reference, "it": engine}, rounds=5)
    figures = [f"{found.figures['found_again']:.1f} %, {found.figures['mean_iou']:.3f}" for found in (images, video)]
    # As percentages, because the mAP on these images differs from the published one.
    by_labels = 100 * labels.lost.value / labels.figures["map_fp32"]
    by_mirror = 100 * images.lost.value / (published_map(judges.images.card) or TYPICAL_MAP)
    row = [what, label, figures[0], f"{by_labels:.1f} %; {by_mirror:.1f} %", figures[1]]
    drift = f"{video.figures['count_change']:+.1f} %; {video.figures['score_change']:+.3f}".replace("-", "−")
    row += [drift, str(video.lost), f"{faster(rounds['it'], rounds['']).times.median:.2f}"]
    _log(*row)
    return row


def _save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def _log(*words: str) -> None:
    print(time.strftime("%H:%M:%S"), *words, sep=" | ", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
