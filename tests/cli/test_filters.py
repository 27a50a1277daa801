"""``run`` with per-class confidence, a minimum size, a region and a hook, on a real clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.cli.test_errors import one_line
from tests.support.media import bikes

EVERY = ("--every", "25", "--quiet")

HOOK = """
from dataclasses import replace

def people(frame, result):
    found = result.detections
    return replace(result, detections=found[found.class_ids == 0])

def odd(frame, result):
    return result if result.frame % 2 else None

def fails(frame, result):
    return result.detection
"""


def boxes(command: Command, folder: Path, *options: str) -> dict[int, list[dict[str, Any]]]:
    """Return the detections by frame of a run with these options."""
    done = command("run", bikes(), "--out", "rows.jsonl", "--overwrite", *EVERY, *options)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return {row["frame"]: row["detections"] for row in rows}


def without(found: dict[int, list[dict[str, Any]]], keep: Any) -> dict[int, list[dict[str, Any]]]:
    return {frame: [one for one in detections if keep(one)] for frame, detections in found.items()}


def test_each_filter_keeps_the_right_detections(in_process: Command, tmp_path: Path) -> None:
    every = boxes(in_process, tmp_path, "--confidence", "0.2")
    labels = {one["label"] for found in every.values() for one in found}
    assert {"person", "bicycle"} <= labels
    least = {"person": 0.6, "bicycle": 0.2}
    found = boxes(in_process, tmp_path, "--confidence", "0.4", "--per-class", "Person=0.6, bicycle=0.2")
    assert found == without(every, lambda one: one["score"] >= least.get(one["label"], 0.4))
    assert found != every
    found = boxes(in_process, tmp_path, "--confidence", "0.2", "--min-size", "40")
    sides = [(one["box"][2] - one["box"][0], one["box"][3] - one["box"][1]) for ones in found.values() for one in ones]
    assert min(map(min, sides)) >= 40
    assert found == without(every, lambda one: min(one["box"][2] - one["box"][0], one["box"][3] - one["box"][1]) >= 40)
    (tmp_path / "yard.yaml").write_text("units: relative\nlook: [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]\n")
    found = boxes(in_process, tmp_path, "--confidence", "0.2", "--region", "yard.yaml")
    assert found == without(every, lambda one: one["box"][0] + one["box"][2] <= 640)
    assert 0 < sum(map(len, found.values())) < sum(map(len, every.values()))
    (tmp_path / "yard.yaml").write_text("streams: {bikes: {ignore: [[[0, 0], [320, 0], [320, 272], [0, 272]]]}}\n")
    rest = boxes(in_process, tmp_path, "--confidence", "0.2", "--region", "yard.yaml")
    assert sum(map(len, rest.values())) == sum(map(len, every.values())) - sum(map(len, found.values()))


def test_a_hook_in_the_current_folder_changes_and_drops_results(command: Command, in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HOOK)
    every = boxes(in_process, tmp_path)
    assert boxes(command, tmp_path, "--hook", "mine:people") == without(every, lambda one: one["label"] == "person")
    summary = tmp_path / "summary.json"
    found = boxes(command, tmp_path, "--hook", "mine:odd", "--summary", str(summary))
    assert found == {frame: ones for frame, ones in every.items() if frame % 2}
    source = json.loads(summary.read_text())["sources"][0]
    assert (source["frames"], source["dropped"]["hook"], source["hook_errors"]) == (5, 5, 0)


def test_a_failing_hook_is_reported_once_and_loses_no_results(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HOOK)
    done = command("run", bikes(), "--out", "rows.jsonl", *EVERY, "--hook", "mine:fails")
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    assert first.startswith("warning: bikes: hook mine:fails: AttributeError: ")
    assert f"({tmp_path / 'mine.py'}:12)" in first
    assert second.endswith("a hook failed on 10 results")
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--per-class", "persn=0.5"), ("persn", "person")),
        (("--per-class", "person"), ("--per-class person", "person=0.5")),
        (("--per-class", "person=high"), ("--per-class person=high",)),
        (("--per-class", "person=1.5"), ("--per-class", "less than or equal to 1")),
        (("--per-class", "person=nan"), ("--per-class",)),
        (("--per-class", "person=0.5,person=0.6"), ("twice",)),
        (("--per-class", "person=0.5,Person=0.6"), ("twice",)),
        (("--min-size", "-1"), ("--min-size",)),
        (("--region", "gone.yaml"), ("region gone.yaml", "cannot be read")),
        (("--hook", "gone:hook"), ("hook gone:hook", "module gone not found")),
        (("--hook", "gone"), ("hook gone", "MODULE:FUNCTION")),
    ],
)
def test_invalid_options_are_one_line_errors(in_process: Command, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    one_line(in_process("run", bikes(), *options), 2, *words)


def test_a_second_secondary_model_is_refused(in_process: Command) -> None:
    done = in_process("run", "a.mp4", "--secondary", "one", "--secondary", "two")
    assert (done.returncode, done.stderr) == (2, "error: --secondary: given 2 times. Give it once.\n")
