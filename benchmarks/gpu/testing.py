"""Run tests that need a GPU, one file at a time: a row for each test."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu.parts import ROOT
from benchmarks.gpu.plan import Row, Step

_TIMEOUT_S = 420
"""The maximum duration of a file, seconds."""


def steps(files: Iterable[str]) -> Iterator[Step]:
    """Yield a step for each file."""
    for file in files:
        yield file, partial(_rows, file)


def _rows(file: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", file]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
        if not report.exists():
            raise RuntimeError((done.stderr or done.stdout).strip()[-300:] or f"pytest ended with status {done.returncode}")
        found = list(outcomes(report.read_text(encoding="utf-8")))
    yield from found
    failed = sum(row["outcome"] == "failed" for row in found)
    if failed or done.returncode:
        raise RuntimeError(f"{failed} tests failed: {done.stdout.strip()[-2000:]}")


def outcomes(xml: str) -> Iterator[Row]:
    """Yield a row for each test of a pytest report: ``passed``, ``failed`` or ``skipped``, the last two with the reason."""
    for case in ElementTree.fromstring(xml).iter("testcase"):
        skip, failures = case.find("skipped"), [*case.findall("failure"), *case.findall("error")]
        outcome, why = "passed", None
        if failures:
            outcome, why = "failed", next(iter((failures[0].get("message") or "").splitlines()), "")
        elif skip is not None:
            outcome, why = "skipped", skip.get("message")
        yield {"test": case.get("name"), "outcome": outcome, "seconds": float(case.get("time") or 0), "why": why}
