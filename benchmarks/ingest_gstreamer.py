# mypy: ignore-errors
"""Measures the age of frames that GStreamer has decoded, run by the system's Python, which has its bindings.

    /usr/bin/python3 benchmarks/ingest_gstreamer.py SECONDS URL

It prints one line of JSON: a list for each frame that has its age in milliseconds. This is the shortest pipeline: no jitter
buffer, no frame threads, no wait for the time of presentation, and no parser, because the depayloader returns whole pictures.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

PIPELINE = (
    'rtspsrc location="{url}" protocols=tcp latency=0 ! rtph264depay ! avdec_h264 max-threads=1 ! '
    "video/x-raw,format=I420 ! appsink name=sink sync=false max-buffers=0"
)
WARM_UP_S = 1.0
LIMIT_NS = 20_000_000_000


def load_time_code():
    """Load the project's module as a file, because the package and NumPy are installed for another Python."""
    file = Path(__file__).resolve().parents[1] / "vision_infer" / "core" / "time_code.py"
    spec = importlib.util.spec_from_file_location("time_code", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


code = load_time_code()


def read(luma, width, height):
    """Return the time in an image, milliseconds; None if it cannot be read. Some samples of each cell are enough."""
    columns, rows = code.middles(code.column_edges(width)), code.middles(code.row_edges(height))
    levels = []
    for row in rows:
        line = row[len(row) // 2] * width
        levels += [sum(luma[line + column.start : line + column.stop]) / len(column) for column in columns]
    middle = (levels[code.WHITE_GUARDS[0]] + levels[code.BLACK_GUARDS[0]]) / 2
    cells = tuple(int(level > middle) for level in levels)
    moment = 0
    for cell in code.MOMENT_CELLS:
        moment = moment << 1 | cells[cell]
    return moment if cells == code.cells_of(moment) else None


def main(seconds, url):
    """Print the ages."""
    Gst.init(None)
    pipeline = Gst.parse_launch(PIPELINE.format(url=url))
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    ages, begin, end = [], 0, 0
    while sample := sink.emit("try-pull-sample", LIMIT_NS):
        now = time.monotonic_ns()
        if not end:
            begin, end = now + int(WARM_UP_S * 1e9), now + int((WARM_UP_S + seconds) * 1e9)
        if now >= end:
            break
        caps = sample.get_caps().get_structure(0)
        width, height = caps.get_value("width"), caps.get_value("height")
        moment = read(sample.get_buffer().extract_dup(0, width * height), width, height)
        if now >= begin and moment is not None:
            ages.append([(now / 1e6 - moment) % code.MODULUS])
    pipeline.set_state(Gst.State.NULL)
    print(json.dumps(ages))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
