"""Measure this machine, plan twelve cameras on it, and copy the charts to ``docs/images``.

python -m benchmarks.plan_example [--quick]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

from benchmarks.inputs import COMMAND, RESULTS, ROOT

ASKED = ("--cameras", "12", "--size", "1080p", "--fps", "10", "--target-ms", "200")
PRICES = ("--price", "this machine=0.10", "--currency", "EUR", "--detections", "3", "--gate-saves", "0.6")
DOCS = ROOT / "docs"
PICTURES = {"plan-ages.png": "plan"}


def main() -> int:
    """Bench, plan, copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = ["--quick"] if parser.parse_args().quick else []
    environment = {**os.environ, "VISION_INFER_HOME": str(RESULTS / "home")}
    made = {name: RESULTS / name for name in ("bench", "plan")}
    subprocess.run([str(COMMAND), "bench", *quick, "--out", str(made["bench"])], check=True, env=environment)
    subprocess.run([str(COMMAND), "plan", *ASKED, *PRICES, "--out", str(made["plan"])], check=True, env=environment)
    for name, folder in PICTURES.items():
        shutil.copyfile(made[folder] / name, DOCS / "images" / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
