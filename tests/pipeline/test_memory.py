"""Large pictures: fewer of them are on their way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.media import ROOT, Clip, clip
from vision_infer.pipeline.memory import BYTES_PER_PIXEL, PICTURE_MEMORY_BYTES

SIZE_4K = 3840 * 2160 * BYTES_PER_PIXEL
SCRIPT = """
import json, sys, threading
from vision_infer.config.run import run_settings
from vision_infer.pipeline import offline
seen = []
def progress(statuses):
    seen.append(sum(status.picture_bytes for status in statuses))
settings = run_settings(sources=tuple(sys.argv[1:]), engine="null", workers=8, batch=4)
summary = offline.run(settings, threading.Event(), progress)
print(json.dumps({"told": max(seen), "peak": summary.peak_rss_bytes, "frames": summary.frames}))
"""


def test_four_4k_files_at_once_stay_within_what_was_told(tmp_path: Path) -> None:
    source = clip(Clip(width=3840, height=2160, frames=30))
    sources = []
    for number in range(4):
        path = tmp_path / f"{number}.mp4"
        path.symlink_to(source)
        sources.append(str(path))
    # Eight batches of four in flight: by frames alone a window would be 68 pictures, 1.7 GB for each file.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *sources], cwd=ROOT, capture_output=True, text=True, timeout=240, check=True
    )
    figures = json.loads(done.stdout)
    assert figures["frames"] == 4 * 30
    assert 4 * 2 * SIZE_4K <= figures["told"] <= PICTURE_MEMORY_BYTES
    assert figures["peak"] < PICTURE_MEMORY_BYTES + 600e6
