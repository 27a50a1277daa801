"""An archive of a thousand files, one in ten of them broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.media import Clip, clip

FILES = 1000
FRAMES = 6


@pytest.mark.slow
def test_a_thousand_files_with_one_in_ten_broken(tmp_path: Path) -> None:
    whole = clip(Clip(width=64, height=48, frames=FRAMES)).read_bytes()
    broken = (b"", b"no video at all\n" * 20, whole[: len(whole) // 3], bytes(len(whole)))
    archive = tmp_path / "archive"
    archive.mkdir()
    for number in range(FILES):
        content = broken[number // 10 % len(broken)] if number % 10 == 9 else whole
        (archive / f"{number:04}.mp4").write_bytes(content)
    words = [sys.executable, "-m", "vision_infer", "run", str(archive), "--engine", "null", "--out", "rows.jsonl", "--json", "-q"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    rows = Counter(json.loads(line)["stream"] for line in (tmp_path / "rows.jsonl").read_text().splitlines())
    good = [f"{number:04}" for number in range(FILES) if number % 10 != 9]
    assert rows == dict.fromkeys(good, FRAMES)
    assert [source["name"] for source in summary["sources"] if not source["error"]] == good
    errors = done.stderr.splitlines()
    assert len(errors) == FILES // 10
    assert all(line.startswith("error: ") and ".mp4: " in line for line in errors)
    assert summary["peak_rss_bytes"] < 400e6


def test_a_file_that_is_replaced_or_shortened_while_it_is_read(tmp_path: Path) -> None:
    """A recorder replaces or shortens its files while they are read."""
    replaced, shortened = tmp_path / "replaced.mp4", tmp_path / "shortened.mp4"
    source = clip(Clip(frames=400)).read_bytes()
    for path in (replaced, shortened):
        path.write_bytes(source)
    words = [sys.executable, "-m", "vision_infer", "run", str(replaced), str(shortened), "--engine", "null", "--out", "-", "-q"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seen = [json.loads(process.stdout.readline()) for _ in range(20)]
        (tmp_path / "new.mp4").write_bytes(b"another content")
        (tmp_path / "new.mp4").rename(replaced)
        with shortened.open("r+b") as file:
            file.truncate(len(source) // 2)
        seen += [json.loads(line) for line in process.stdout]
        assert process.wait(timeout=60) in (0, 1)
        assert "Traceback" not in process.stderr.read()
    rows = Counter(row["stream"] for row in seen)
    assert rows["replaced"] == 400  # the opened file is read to its end
    assert 0 < rows["shortened"] <= 400
