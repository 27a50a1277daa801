"""Make ``model.int8.onnx`` and ``model-256x416.int8.onnx`` with their passports again, or refuse to.

    python models/nanodet-416/quantize.py --data VIDEO|FOLDER…
    python models/nanodet-416/quantize.py --time      measure speed once more, on the machine of the passports when it is quiet
    python models/nanodet-416/quantize.py --check     do the files and their passports belong together?

Where the budget does not hold for one of the two, nothing is written. The second reads its weights from the first and from
``model.onnx``. The frames are looked at, and none of them is kept: what they leave in the file are the ranges of the network's
activations.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

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
from vision_infer.precision.quantization.quantize import QuantizeRequest, quantize_model
from vision_infer.precision.verification.engine_check import measured_speed

HERE = Path(__file__).resolve().parent
GRAPHS = ("model.onnx", "model-256x416.onnx")
LARGEST = 5_000_000  # bytes, all together; they go into the wheel
NEEDS = FrameNeeds(calibration=64, search=110, evaluation=250)


def name_of(graph: str) -> str:
    """The INT8 form of a graph: ``model.onnx`` has ``model.int8.onnx``."""
    return graph.removesuffix(".onnx") + ".int8.onnx"


def make(data: list[str]) -> str:
    """Quantize, and put what comes of it beside the FP32 graphs; what it is worth, in words."""
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(Path(folder))
        told = [quantize(graph, data, made) for graph in GRAPHS]
        return "\n".join([*told, f"{put_in_place(made):,} bytes"])


def prepare(folder: Path) -> Path:
    """A copy of the model to work in, FP32 alone."""
    made = folder / HERE.name
    made.mkdir()
    for name in (*GRAPHS, "model.yaml"):
        shutil.copyfile(HERE / name, made / name)
    return made


def quantize(graph: str, data: list[str], made: Path) -> str:
    """Quantize one graph of the copy; what it is worth, in words."""
    request = QuantizeRequest(str(made / graph), tuple(data), needs=NEEDS)
    report = quantize_model(request, lambda line: print(line, file=sys.stderr))
    return "\n".join(f"{graph}, {one.engine}: {words(one)}" for one in report.passports)


def put_in_place(made: Path) -> int:
    """Let the second graph read its weights from the first, and move all into the model's folder; bytes of the graphs."""
    first, *others = (made / name_of(graph) for graph in GRAPHS)
    there = {first.name: first.read_bytes(), GRAPHS[0]: (HERE / GRAPHS[0]).read_bytes()}
    for path in others:
        before = graph_sha256(path)
        path.write_bytes(share_weights(onnx.load(path), there).SerializeToString(deterministic=True))
        for passport in made.glob(f"{path.stem}.*.passport.json"):
            passport.write_text(passport.read_text().replace(before, graph_sha256(path)))
    size = sum((made / name_of(graph)).stat().st_size for graph in GRAPHS)
    if size > LARGEST:
        raise SystemExit(f"quantize: the graphs have {size:,} bytes, more than {LARGEST:,}")
    for old in HERE.glob("model*.int8.*"):
        old.unlink()
    for path in made.glob("model*.int8.*"):
        shutil.copyfile(path, HERE / path.name)
    return size


def time_again() -> str:
    """Measure the speeds that the passports tell once more, in turns with FP32; what they are, in words."""
    told = []
    for graph in GRAPHS:
        path = HERE / name_of(graph)
        passports = {one.runtime: one for one in passports_beside(path)}
        for one in passports.values():
            if not one.measured_here(this_device(), runtime_version(one.runtime)):
                raise SystemExit(f"quantize: the passport of {one.engine} beside {path.name} is another machine's")
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
            told.append(f"{graph}, {one.engine}: {words(made)}, {speed.fps} pictures a second")
    return "\n".join(told)


def words(passport: Passport) -> str:
    """What a passport says, in short."""
    accuracy, speed = passport.accuracy[0], passport.speed[0]
    count = "" if accuracy.drift is None else f"{accuracy.drift.count:+.1f} % detections, "
    return f"{accuracy.value:+.2f} points lost, {count}{speed.fp32_ratio}× FP32"


def check() -> str:
    """Whether the files and their passports belong together and the budget holds; in words, or the end."""
    told = []
    for graph in GRAPHS:
        path = HERE / name_of(graph)
        if not path.is_file():
            raise SystemExit(f"quantize: there is no {path.name}")
        passports = passports_beside(path)
        for one in passports:
            if one.sources.graph != graph_sha256(path) or one.tools.get("fp32") != graph_sha256(HERE / graph):
                raise SystemExit(f"quantize: the passport of {one.engine} beside {path.name} is another file's")
        within = [one.engine for one in passports if one.loss() is not None and not one.shortfall(BUDGET_POINTS)]
        if not within:
            raise SystemExit(f"quantize: no passport proves that the budget holds for {path.name}")
        told.append(f"{path.name}: within the budget on {', '.join(within)}")
    return "\n".join(told)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the INT8 form of the bundled network again.")
    parser.add_argument("--data", nargs="+", default=[], help="videos and pictures to calibrate on and to judge by")
    parser.add_argument("--check", action="store_true", help="write nothing; do the file and its passports belong together?")
    parser.add_argument("--time", action="store_true", help="measure speed once more, for the passports that are here")
    options = parser.parse_args(arguments)
    try:
        print(check() if options.check else time_again() if options.time else make(options.data))
    except VisionInferError as error:
        raise SystemExit(f"quantize: {error}") from error


if __name__ == "__main__":
    main()
