"""An archive of a thousand files, one in ten of them broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.media import Clip, clip

FILES = 1000
FRAMES = 6


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
