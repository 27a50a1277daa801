"""Measures this machine and plans twelve cameras on it: writes ``docs/plan-example.md`` and the pictures of the documents.

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
PICTURES = {"plan-ages.png": "plan", "plan-what-if.png": "plan", "engines.png": "bench", "streams.png": "bench"}


def main() -> int:
    """Bench, plan, copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = ["--quick"] if parser.parse_args().quick else []
    environment = {**os.environ, "VISION_INFER_HOME": str(RESULTS / "home")}
    made = {name: RESULTS / name for name in ("bench", "plan")}
    subprocess.run([str(COMMAND), "bench", *quick, "--out", str(made["bench"])], check=True, env=environment)
    subprocess.run([str(COMMAND), "plan", *ASKED, *PRICES, "--out", str(made["plan"])], check=True, env=environment)
    page = (made["plan"] / "plan.md").read_text(encoding="utf-8")
    command = " ".join(f"'{word}'" if " " in word else word for word in ("vision-infer", "plan", *ASKED, *PRICES))
    intro = f"\nThis page is what `{command} --out DIR` wrote; the price is an example. [Plan](plan.md) tells how to read it.\n"
    title, rest = page.split("\n", 1)
    for name, folder in PICTURES.items():
        target = name if name.startswith("plan") else f"bench-{name}"
        shutil.copyfile(made[folder] / name, DOCS / "images" / target)
        rest = rest.replace(f"]({name})", f"](images/{name})")
    (DOCS / "plan-example.md").write_text(f"{title}\n{intro}{rest}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
