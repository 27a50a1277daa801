"""Make ``model.onnx`` again: the clock network, which :mod:`vision_infer.model.clock_network` builds.

python models/clock/convert.py                          write model.onnx
python models/clock/convert.py --check                  write nothing; compare with the model.onnx that is here
python models/clock/convert.py --burn N --out FILE      another one, which burns computing time
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from vision_infer.model.clock_network import build_clock_network

HERE = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the clock network.")
    parser.add_argument("--burn", type=int, default=0, metavar="N", help="convolutions that are computed beside the answer")
    parser.add_argument("--out", type=Path, default=HERE / "model.onnx", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="write nothing; compare with the file that is here")
    options = parser.parse_args(arguments)
    name = f"clock-{options.burn}" if options.burn else "clock"
    built: bytes = build_clock_network(name, burn=options.burn).SerializeToString(deterministic=True)
    if options.check:
        if not options.out.is_file() or options.out.read_bytes() != built:
            raise SystemExit(f"{options.out.name} is not what this script makes")
        print(f"{options.out.name}: byte-identical")
        return
    options.out.write_bytes(built)
    print(f"{options.out.name}: {len(built):,} bytes, sha256 {hashlib.sha256(built).hexdigest()}")


if __name__ == "__main__":
    main()
