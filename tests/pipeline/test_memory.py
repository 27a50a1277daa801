"""Large images: fewer of them are in the pipeline at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.media import ROOT, Clip, clip
from vision_infer.core.geometry import Size
from vision_infer.pipeline.channel import Window
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.pipeline.workers.memory import IMAGE_MEMORY_BYTES, bound_memory
from vision_infer.stream.source import StreamInfo

IMAGE_4K = 3840 * 2160 * 3 // 2
"""The size of an image, bytes: 8 bits with 4:2:0 chroma."""
SCRIPT = """
import json, sys, threading
from vision_infer.config.run import run_settings
from vision_infer.pipeline.runs import offline
seen = []
def progress(statuses):
    seen.append(sum(status.image_bytes for status in statuses))
settings = run_settings(sources=tuple(sys.argv[1:]), engine="null", workers=8, batch=4)
summary = offline.run(settings, threading.Event(), progress)
print(json.dumps({"reported": max(seen), "peak": summary.peak_rss_bytes, "frames": summary.frames}))
"""


@pytest.mark.slow
def test_four_4k_files_at_once_stay_within_the_reported_memory(tmp_path: Path) -> None:
    source = clip(Clip(width=3840, height=2160, frames=30))
    sources = []
    for number in range(4):
        path = tmp_path / f"{number}.mp4"
        path.symlink_to(source)
        sources.append(str(path))
    # Eight batches of four in flight: by frames alone, a window would be 68 images, 1.7 GB for each file.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *sources], cwd=ROOT, capture_output=True, text=True, timeout=240, check=True
    )
    figures = json.loads(done.stdout)
    assert figures["frames"] == 4 * 30
    assert 4 * 2 * IMAGE_4K <= figures["reported"] <= IMAGE_MEMORY_BYTES
    assert figures["peak"] < IMAGE_MEMORY_BYTES + 600e6


@pytest.mark.parametrize(
    ("streams", "most", "bytes_per_pixel", "places", "widest"),
    [
        (64, 36, 1.5, 5, 5),
        (64, 36, None, 2, 2),
        (16, 36, 1.5, 21, 21),
        (16, 36, 3.0, 10, 10),
        (64, 36, 6.0, 2, 2),
        (4, 36, 1.5, 36, 36),
        (1, 8, 1.5, 8, 32),
        (1, 8, 6.0, 8, 10),
        (4, 8, 1.5, 8, 10),
        (16, 8, 1.5, 8, 8),
    ],
)
def test_the_pixel_format_bounds_the_window(
    streams: int, most: int, bytes_per_pixel: float | None, places: int, widest: int
) -> None:
    info = StreamInfo(Size(1920, 1080), None, None, None, None, "h264", False, bytes_per_pixel=bytes_per_pixel)
    record, window = StreamRecord("a", "a.mp4", info=info), Window(most)
    bound_memory(record, window, most, 32, streams, lambda: 1)
    assert sum(window.try_acquire() for _ in range(100)) == places
    assert record.image_bytes == widest * 1920 * 1080 * (bytes_per_pixel or 3)
