"""Make ``model.int8.onnx`` and its passports again from ``model.onnx``, or refuse to.

    python models/nanodet-416/quantize.py --data VIDEO|FOLDER… [--check]

Where the budget of one point does not hold, nothing is written. The frames are looked at, and none of them is kept: what they
leave in the file are the ranges of the network's activations. ``--check`` writes nothing and says whether the file and its
passports belong together.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from vision_infer.core.errors import VisionInferError
from vision_infer.engine.engine_key import file_sha256
from vision_infer.engine.passport import passports_beside
from vision_infer.precision.quantize import QuantizeRequest, quantize_model

HERE = Path(__file__).resolve().parent
NAME = "model.int8.onnx"
LARGEST = 5_000_000  # bytes; it goes into the wheel


def make(data: list[str]) -> str:
    """Quantize, and put what comes of it beside ``model.onnx``; what it is worth, in words."""
    with tempfile.TemporaryDirectory() as folder:
        request = QuantizeRequest(str(HERE / "model.onnx"), tuple(data), model_dir=Path(folder), overwrite=True)
        report = quantize_model(request, lambda line: print(line, file=sys.stderr))
        size = report.path.stat().st_size
        if size > LARGEST:
            raise SystemExit(f"quantize: {NAME} has {size:,} bytes, more than {LARGEST:,}")
        for old in HERE.glob("model.int8.*"):
            old.unlink()
        for made in report.path.parent.glob("model.int8.*"):
            shutil.copyfile(made, HERE / made.name)
    told = [
        f"{one.engine}: {one.accuracy[0].value:+.2f} points lost, {one.speed[0].fp32_ratio}× FP32" for one in report.passports
    ]
    return "; ".join([f"{NAME}: {size:,} bytes", *told])


def check() -> str:
    """Whether the file and its passports belong together and the budget holds; in words, or the end."""
    path = HERE / NAME
    if not path.is_file():
        raise SystemExit(f"quantize: there is no {NAME}")
    passports = passports_beside(path)
    for one in passports:
        if one.sources.graph != file_sha256(path) or one.tools.get("fp32") != file_sha256(HERE / "model.onnx"):
            raise SystemExit(f"quantize: the passport of {one.engine} is another file's")
    within = [one.engine for one in passports if (loss := one.loss()) is not None and loss.high <= 1.0]
    if not within:
        raise SystemExit("quantize: no passport proves that the budget holds")
    return f"{NAME}: within the budget on {', '.join(within)}"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the INT8 form of the bundled network again.")
    parser.add_argument("--data", nargs="+", default=[], help="videos and pictures to calibrate on and to judge by")
    parser.add_argument("--check", action="store_true", help="write nothing; do the file and its passports belong together?")
    options = parser.parse_args(arguments)
    try:
        print(check() if options.check else make(options.data))
    except VisionInferError as error:
        raise SystemExit(f"quantize: {error}") from error


if __name__ == "__main__":
    main()
