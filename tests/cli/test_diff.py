"""``vision-infer diff`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Command
from tests.cli.test_errors import one_line
from tests.support.media import bikes


def test_two_runs(in_process: Command, tmp_path: Path) -> None:
    for name, options in (("a", ()), ("again", ()), ("strict", ("--confidence", "0.5"))):
        assert in_process("run", bikes(), "--out", f"{name}.jsonl", "--every", "50", "--quiet", *options).returncode == 0
    done = in_process("diff", "a.jsonl", "again.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "the same: 5 frames in both, 0 of them differ, 0 only in A, 0 only in B"
    done = in_process("diff", "a.jsonl", "strict.jsonl", "--json", "--images", "worst", "--video", bikes(), "--top", "2")
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert report["same"] is False
    assert report["frames"]["both"] == 5
    assert sum(one["only_a"] for one in report["classes"].values()) > 0
    assert sum(one["only_b"] for one in report["classes"].values()) == 0
    assert sorted(report["images"]) == sorted(f"worst/{path.name}" for path in (tmp_path / "worst").iterdir())
    assert len(report["images"]) == 2
    done = in_process("diff", "a.jsonl", "strict.jsonl")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("different: 5 frames in both")
    assert all(len(line) <= 80 or line.startswith("different") for line in done.stdout.splitlines())


def test_invalid_options_are_one_line_errors(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text("\nhello\n")
    one_line(in_process("diff", "a.jsonl", "gone.jsonl"), 2, "gone.jsonl", "cannot be read")
    one_line(in_process("diff", "a.jsonl", "bad.jsonl"), 2, "bad.jsonl: line 2 is not")
    one_line(in_process("diff", "a.jsonl", "a.jsonl", "--iou", "1.5"), 2, "--iou 1.5")
    one_line(in_process("diff", "a.jsonl", "a.jsonl", "--images", "out"), 2, "--images", "--video")
    one_line(in_process("diff", "a.jsonl", "a.jsonl", "--video", "x.mp4"), 2, "--images", "--video")
    one_line(in_process("diff", "a.jsonl"), 2, "B.jsonl", "--help")
    done = in_process("diff", "a.jsonl", "a.jsonl")
    assert done.returncode == 0
    assert done.stdout == "the same: 0 frames in both, 0 of them differ, 0 only in A, 0 only in B\n"
