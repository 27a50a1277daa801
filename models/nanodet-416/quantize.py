"""Build the other precisions of ``model.onnx`` and ``model-256x416.onnx`` with their passports.

    python models/nanodet-416/quantize.py --data VIDEO|FOLDER…
    python models/nanodet-416/quantize.py --time      measure the speed of INT8 again, on the idle machine of the passports
    python models/nanodet-416/quantize.py --check     check that the files match their passports

The forms are INT8 for CPUs (``model.int8.onnx``), FP16 for GPUs (``model.fp16.onnx``) and INT8 for TensorRT
(``model.int8-tensorrt.onnx``). If the loss of one of the two sizes exceeds the budget, the form is not written. The files read
weights that they share from ``model.onnx`` and ``model.int8.onnx``, so make all forms again when one of these changes. They
contain the ranges of activations on the frames, but no frames.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import onnx
from shared_weights import share_weights

from vision_infer.core.errors import VisionInferError
from vision_infer.engine.measure import faster, measure_speed
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.registry import runtime_version
from vision_infer.engine.selection.by_passport import BUDGET_POINTS
from vision_infer.engine.selection.candidates import this_device
from vision_infer.engine.store.engine_key import graph_sha256
from vision_infer.engine.store.passport import Passport, passport_file, passports_beside
from vision_infer.precision.frames import FrameNeeds
from vision_infer.precision.quantization.int8 import Form
from vision_infer.precision.quantization.quantize import QuantizeRequest, quantize_model
from vision_infer.precision.verification.engine_check import measured_speed

HERE = Path(__file__).resolve().parent
GRAPHS = ("model.onnx", "model-256x416.onnx")
FORMS: dict[str, tuple[Literal["fp16", "int8"], Form]] = {
    "int8": ("int8", "cpu"),
    "fp16": ("fp16", "cpu"),
    "int8-tensorrt": ("int8", "tensorrt"),
}
"""The precision, and the form of INT8, by the middle of the file's name."""
LARGEST = 6_000_000  # bytes in total; they are part of the wheel
NEEDS = FrameNeeds(calibration=64, search=150, evaluation=250)


def name_of(graph: str, form: str = "int8") -> str:
    """Return the name of a form of a graph: ``model.int8.onnx`` for ``model.onnx``."""
    return f"{graph.removesuffix('.onnx')}.{form}.onnx"


def make(data: list[str], form: str) -> str:
    """Quantize the graphs, write them next to the FP32 graphs, and describe their loss and speed."""
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(Path(folder))
        lines = [quantize(graph, form, data, made) for graph in GRAPHS]
        return "\n".join([*lines, f"{put_in_place(made, form):,} bytes"])


def prepare(folder: Path) -> Path:
    """Copy the FP32 model to a working folder."""
    made = folder / HERE.name
    made.mkdir()
    for name in (*GRAPHS, "model.yaml"):
        shutil.copyfile(HERE / name, made / name)
    return made


def quantize(graph: str, form: str, data: list[str], made: Path) -> str:
    """Quantize one graph of the copy, and describe its loss and speed."""
    precision, kind = FORMS[form]
    request = QuantizeRequest(str(made / graph), tuple(data), precision=precision, form=kind, needs=NEEDS)
    report = quantize_model(request, lambda line: print(line, file=sys.stderr))
    return "\n".join(f"{graph}, {one.engine}: {words(one)}" for one in report.passports)


def put_in_place(made: Path, form: str) -> int:
    """Share weights with the graphs that exist already, copy all files to the model's folder, and return their size."""
    names = [name_of(graph, form) for graph in GRAPHS]
    others = [GRAPHS[0], *([] if form == "int8" else [name_of(GRAPHS[0])])]
    there = {name: (HERE / name).read_bytes() for name in others}
    for path in (made / name for name in names):
        before = graph_sha256(path)
        content = share_weights(onnx.load(path), there).SerializeToString(deterministic=True)
        for name in others:
            shutil.copyfile(HERE / name, made / name)  # the checksum includes the files with weights
        path.write_bytes(content)
        for passport in made.glob(f"{path.stem}.*.passport.json"):
            passport.write_text(passport.read_text().replace(before, graph_sha256(path)))
        there[path.name] = content
    for old in HERE.glob(f"model*.{form}.*"):
        old.unlink()
    for path in made.glob(f"model*.{form}.*"):
        shutil.copyfile(path, HERE / path.name)
    files = [HERE / name_of(graph, one) for graph in GRAPHS for one in FORMS]
    size = sum(path.stat().st_size for path in files if path.is_file())
    if size > LARGEST:
        raise SystemExit(f"quantize: the graphs have {size:,} bytes, more than {LARGEST:,}")
    return size


def time_again() -> str:
    """Measure the speeds in the passports again, alternating with FP32, and describe them."""
    lines = []
    for graph in GRAPHS:
        path = HERE / name_of(graph)
        passports = {one.runtime: one for one in passports_beside(path)}
        for one in passports.values():
            if not one.measured_here(this_device(), runtime_version(one.runtime)):
                raise SystemExit(f"quantize: the passport of {one.engine} next to {path.name} is from another machine")
        with ExitStack() as stack:
            fp32 = stack.enter_context(open_engine(HERE / graph, EngineRequest("onnxruntime", "cpu")))
            engines = {
                runtime: stack.enter_context(open_engine(path, EngineRequest(runtime, "cpu", compute="f32")))
                for runtime in passports
            }
            rounds = measure_speed({"": fp32, **engines})
        for runtime, one in passports.items():
            speed = measured_speed(rounds[runtime], engines[runtime].in_flight, faster(rounds[runtime], rounds[""]))
            made = one.model_copy(update={"speed": (speed,)})
            passport_file(path, one.engine).write_text(made.to_json(), encoding="utf-8")
            lines.append(f"{graph}, {one.engine}: {words(made)}, {speed.fps} images per second")
    return "\n".join(lines)


def words(passport: Passport) -> str:
    """Summarize a passport."""
    accuracy, speed = passport.accuracy[0], passport.speed[0]
    count = "" if accuracy.drift is None else f"{accuracy.drift.count:+.1f} % detections, "
    return f"{accuracy.value:+.2f} points lost, {count}{speed.fp32_ratio}× FP32"


def check() -> str:
    """Check that the files match their passports and the budget; exit if they do not."""
    lines = []
    for graph, form in ((graph, form) for form in FORMS for graph in GRAPHS):
        path = HERE / name_of(graph, form)
        if not path.is_file():
            raise SystemExit(f"quantize: {path.name} does not exist")
        passports = passports_beside(path)
        for one in passports:
            if one.sources.graph != graph_sha256(path) or one.tools.get("fp32") != graph_sha256(HERE / graph):
                raise SystemExit(f"quantize: the passport of {one.engine} next to {path.name} belongs to another file")
        within = [one.engine for one in passports if one.loss() is not None and not one.shortfall(BUDGET_POINTS)]
        if not within:
            raise SystemExit(f"quantize: no passport shows a loss within the budget for {path.name}")
        lines.append(f"{path.name}: within the budget on {', '.join(within)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build the other precisions of the bundled model.")
    parser.add_argument("--data", nargs="+", default=[], help="videos and images for calibration and evaluation")
    parser.add_argument("--only", nargs="+", choices=FORMS, default=list(FORMS), help="the forms to make")
    parser.add_argument("--check", action="store_true", help="write nothing; check that the files match their passports")
    parser.add_argument("--time", action="store_true", help="measure the speed again for the existing passports of INT8")
    options = parser.parse_args(arguments)
    try:
        if options.check or options.time:
            print(check() if options.check else time_again())
            return
        for form in options.only:
            print(make(options.data, form))
    except VisionInferError as error:
        raise SystemExit(f"quantize: {error}") from error


if __name__ == "__main__":
    main()
