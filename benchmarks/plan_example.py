"""Measure this machine, plan twelve cameras on it, and copy the chart to ``docs/images``.

python -m benchmarks.plan_example [--quick]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

from benchmarks.inputs import COMMAND, RESULTS, ROOT

REQUIREMENTS = ("--cameras", "12", "--size", "1080p", "--fps", "10", "--target-ms", "200")
PRICES = ("--price", "this machine=0.10", "--currency", "EUR", "--detections", "3", "--gate-saves", "0.6")
DOCS = ROOT / "docs"
CHARTS = {"plan-ages.png": "plan"}


def main() -> int:
    """Measure, plan, and copy the chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = ["--quick"] if parser.parse_args().quick else []
    environment = {**os.environ, "VISION_INFER_HOME": str(RESULTS / "home")}
    folders = {name: RESULTS / name for name in ("bench", "plan")}
    subprocess.run([str(COMMAND), "bench", *quick, "--out", str(folders["bench"])], check=True, env=environment)
    subprocess.run([str(COMMAND), "plan", *REQUIREMENTS, *PRICES, "--out", str(folders["plan"])], check=True, env=environment)
    for name, folder in CHARTS.items():
        shutil.copyfile(folders[folder] / name, DOCS / "images" / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
