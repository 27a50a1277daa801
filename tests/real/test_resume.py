"""A run that is killed and resumed gives the same results as an uninterrupted run."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.media import bikes, excerpt

FRAMES = 40


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for name, first, width, height in (("a.mp4", 20, 320, 136), ("b.mkv", 100, 160, 120), ("c.mp4", 180, 320, 136)):
        path = folder / name
        shutil.copyfile(excerpt(first, FRAMES, width, height, path.suffix), path)
        made.append(path)
    return made


def words(*options: str | Path) -> list[str]:
    return [sys.executable, "-m", "vision_infer", "run", "--quiet", *map(str, options)]


def rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows by stream, in the file's order, without their times."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        del row["latency_ms"]
        found.setdefault(row["stream"], []).append(row)
    return found


def table(path: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["stream"], []).append(row)
    return found


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # not started, or already renamed
        return 0


def run_with_kills(options: list[str | Path], watched: Path, seed: int, most: int = 5) -> int:
    """Run with --resume, and kill the run repeatedly after random progress, until it completes.

    Returns:
        how often it was killed.
    """
    chance = random.Random(seed)
    kills = 0
    while kills < most:
        before = size(watched)
        more = chance.randint(1, 8_000)
        with subprocess.Popen(words(*options, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while process.poll() is None:
                if size(watched) - before > more:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.001)  # polling more often would take a CPU core from the run
            process.wait(timeout=60)
            assert process.stderr is not None
            errors = process.stderr.read()
        if process.returncode == 0:
            return kills
        assert process.returncode == -signal.SIGKILL, errors
        kills += 1
    done = subprocess.run(words(*options, "--resume"), capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return kills


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_rows_continue_within_a_source(clips: list[Path], tmp_path: Path, seed: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    done = subprocess.run(words(*clips, "--out", whole / "r.jsonl", "--out", whole / "r.csv"), check=False, timeout=120)
    assert done.returncode == 0
    options: list[str | Path] = [*clips, "--out", cut / "r.jsonl", "--out", cut / "r.csv"]
    kills = run_with_kills(options, cut / ".r.jsonl.partial", seed)
    assert kills >= 1
    assert rows(cut / "r.jsonl") == rows(whole / "r.jsonl")
    assert table(cut / "r.csv") == table(whole / "r.csv")
    assert sorted(path.name for path in cut.iterdir()) == [".r.jsonl.resume", "r.csv", "r.jsonl"]


@pytest.mark.slow
def test_finished_sources_are_not_read_again(clips: list[Path], tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(words(*clips, "--out", f"{whole}/", "--formats", "jsonl,csv,txt"), check=True, timeout=120)
    options: list[str | Path] = [*clips, "--out", f"{cut}/", "--formats", "jsonl,csv,txt"]
    run_with_kills(options, cut / ".c.jsonl.partial", 3)
    before = {path.name: path.stat().st_mtime_ns for path in cut.iterdir()}
    subprocess.run(words(*options, "--resume"), check=True, timeout=120)
    after = {path.name: path.stat().st_mtime_ns for path in cut.iterdir()}
    assert {name: time for name, time in after.items() if not name.startswith(".")} == {
        name: time for name, time in before.items() if not name.startswith(".")
    }
    for name in ("a", "b", "c"):
        assert rows(cut / f"{name}.jsonl") == rows(whole / f"{name}.jsonl")
        assert table(cut / f"{name}.csv") == table(whole / f"{name}.csv")
        assert (cut / f"{name}.txt").read_text() == (whole / f"{name}.txt").read_text()


@pytest.mark.slow
def test_tracks_get_the_same_numbers_as_in_one_run(clips: list[Path], tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    subprocess.run(words(*clips, "--track", "--out", whole), check=True, timeout=120)
    kills = run_with_kills([*clips, "--track", "--out", cut], tmp_path / ".cut.jsonl.partial", 4, most=2)
    assert kills >= 1
    assert rows(cut) == rows(whole)


def test_a_run_that_was_stopped_by_a_signal_is_resumed(clips: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with subprocess.Popen(words(*clips, "--out", out, "--out", "-"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(25):
            process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(timeout=60) == 143
    assert 25 <= len(out.read_text().splitlines()) < 3 * FRAMES
    refused = subprocess.run(words(*clips, "--out", out, "--resume", "--every", "2"), capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "--every" in refused.stderr
    done = subprocess.run(words(*clips, "--out", out, "--out", tmp_path / "x.csv", "--resume"), capture_output=True, text=True)
    assert done.returncode == 2
    assert "--out" in done.stderr


@pytest.mark.slow
def test_a_source_that_has_changed_is_read_again(clips: list[Path], tmp_path: Path) -> None:
    source = tmp_path / "video.mp4"
    shutil.copyfile(clips[0], source)
    out = tmp_path / "rows.jsonl"
    subprocess.run(words(source, "--out", out, "--resume"), check=True, timeout=60)
    first = rows(out)
    shutil.copyfile(clips[2], source)
    subprocess.run(words(source, clips[1], "--out", out, "--resume"), check=True, timeout=60)
    second = rows(out)
    assert set(second) == {"video", "b"}
    assert len(second["video"]) == len(first["video"]) == FRAMES
    assert second["video"] != first["video"]


def test_outputs_that_cannot_be_resumed_are_rejected(tmp_path: Path) -> None:
    for options, word in (
        (["--out", "-"], "no file"),
        (["--out", "x.parquet"], "x.parquet"),
        (["--out", "x.jsonl", "--rotate-mb", "1"], "--rotate-mb"),
        ([], "no file"),
    ):
        done = subprocess.run(words(bikes(), *options, "--resume"), cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stderr
        assert word in done.stderr
    (tmp_path / "rows.jsonl").write_text("precious\n")
    done = subprocess.run(
        words(bikes(), "--out", "rows.jsonl", "--resume"), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 5
    assert (tmp_path / "rows.jsonl").read_text() == "precious\n"
