"""The plan of ``make test-gpu`` and ``make bench-gpu``: the order of its parts, its time and its rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import bench
from benchmarks.gpu.parts import FIRST, PARTS, ROOT, files_by_part, gpu_tests
from benchmarks.gpu.plan import NO_TIME, Row, Rows, Step, run_parts, tables
from tests.benchmarks.gpu_cases import environment, written

__all__ = ["environment"]


class Clock:
    """A clock that a step moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def step(clock: Clock, seconds: float, *rows: Row, fails: bool = False) -> Callable[[], Iterator[Row]]:
    def measure() -> Iterator[Row]:
        clock.now += seconds
        yield from rows
        if fails:
            raise ValueError("no luck")

    return measure


def run(
    parts: dict[str, list[Step]], folder: Path, minutes: float | None = None, clock: Clock | None = None
) -> tuple[int, list[Row]]:
    rows = Rows(folder / "bench-gpu.jsonl")
    failed = run_parts({name: partial(iter, steps) for name, steps in parts.items()}, rows, minutes, clock or Clock())
    assert written(folder) == rows.written
    return failed, rows.written


def test_the_parts_are_in_this_order() -> None:
    assert list(PARTS) == [
        *("facts", "cuda", "engine", "decoding", "pipeline", "submit", "onnxruntime", "tensorrt", "torchcompile"),
    ]
    assert list(program.parts_of("bench")) == list(PARTS)
    tests = program.parts_of("tests")
    assert tuple(tests)[: len(FIRST)] == FIRST
    assert len(tests) == len({name.partition("::")[0] for name in gpu_tests()}), "a part for each file"
    assert [name for name, _ in bench.cuda()] == [files_by_part()[name] for name in FIRST]


def test_a_step_or_a_part_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    def broken() -> Iterator[Step]:
        raise ImportError("no torch")

    clock = Clock()
    rows = Rows(tmp_path / "bench-gpu.jsonl")
    parts: dict[str, Any] = {
        "facts": lambda: [("a", step(clock, 1, {"fps": 1}, fails=True)), ("b", step(clock, 1, {"fps": 2}))],
        "engine": broken,
        "decoding": lambda: [("c", step(clock, 1, {"fps": 3}))],
    }
    assert run_parts(parts, rows, clock=clock) == 2
    assert rows.written == [
        {"part": "facts", "step": "a", "fps": 1},
        {"part": "facts", "step": "a", "failed": "ValueError: no luck"},
        {"part": "facts", "step": "b", "fps": 2},
        {"part": "engine", "failed": "ImportError: no torch"},
        {"part": "decoding", "step": "c", "fps": 3},
    ]


def test_it_stops_when_the_time_is_used_up_and_lists_the_remaining_steps(tmp_path: Path) -> None:
    clock = Clock()
    parts: dict[str, list[Step]] = {
        "decoding": [("1", step(clock, 20, {"fps": 1})), ("2", step(clock, 30, {"fps": 2})), ("3", step(clock, 30, {"fps": 3}))],
        "pipeline": [("4", step(clock, 5, {"fps": 4})), ("5", step(clock, 6, {"fps": 5})), ("6", step(clock, 6, {"fps": 6}))],
    }
    failed, rows = run(parts, tmp_path, 1, clock)
    assert (failed, clock.now) == (0, 55), "the third step needs 30 s as the second did, but 10 s are left"
    assert [(row["step"], row.get("fps"), row.get("left_out")) for row in rows] == [
        *(("1", 1, None), ("2", 2, None), ("3", None, NO_TIME)),
        *(("4", 4, None), ("5", None, NO_TIME), ("6", None, NO_TIME)),
    ]


def test_the_rows_survive_a_kill(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from benchmarks.gpu.plan import Rows, run_parts
def measure():
    yield {{"fps": 1}}
    yield {{"fps": 2}}
    os.kill(os.getpid(), signal.SIGKILL)
run_parts({{"engine": lambda: [("a", measure)]}}, Rows(Path({str(tmp_path)!r}) / "bench-gpu.jsonl"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    assert [row["fps"] for row in written(tmp_path)] == [1, 2]


def test_later_runs_add_to_the_file(tmp_path: Path) -> None:
    for _ in range(2):
        Rows(tmp_path / "bench-gpu.jsonl").add({"part": "machine"})
    assert len(written(tmp_path)) == 2


def test_the_table_has_a_column_for_each_value() -> None:
    rows: list[Row] = [
        {"part": "decoding", "step": "a", "fps": 1.5, "stages": {"decode": 1}},
        {"part": "decoding", "step": "bb", "left_out": NO_TIME},
        {"part": "cuda", "step": "x", "why": "long " * 30},
    ]
    text = tables(rows)
    assert text.startswith("decoding\nstep  fps  left_out\na     1.5\nbb         the time is used up\n\ncuda\n")
    assert max(map(len, text.splitlines())) < 70


def test_parts_are_selected_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    for name in PARTS:
        monkeypatch.setattr(bench, name, lambda name=name: [(name, step(clock, 1, {"fps": 1}, fails=name == "cuda"))])
    result = str(tmp_path / "bench-gpu.jsonl")
    assert program.main(["bench", result, "--parts", "submit,facts"]) == 0
    assert [row["step"] for row in written(tmp_path)] == ["host", "facts", "submit"], "in the order of the plan"
    assert "submit\nstep    fps\nsubmit  1" in capsys.readouterr().out
    assert program.main(["bench", result, "--minutes", "0"]) == 0
    assert [row.get("left_out") for row in written(tmp_path)[-9:]] == [NO_TIME] * 9
    assert program.main(["bench", result]) == 1
