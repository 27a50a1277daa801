# mypy: ignore-errors
"""Depayloads RTP with GStreamer, run by the system's Python, which has its bindings.

    /usr/bin/python3 tests/support/gstreamer_depay.py rtph265depay 'application/x-rtp,media=video,…'

It reads RTP packets and writes access units, each preceded by its length in 4 bytes, big endian. tests/preview/depayloading.py
starts it.
"""

from __future__ import annotations

import struct
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst

LIMIT_NS = 20_000_000_000


def main(depayloader, caps):
    """Write all access units until the end of the packets."""
    Gst.init(None)
    elements = f"appsrc name=source format=time ! {depayloader} ! appsink name=sink sync=false max-buffers=0"
    pipeline = Gst.parse_launch(elements)
    source, sink = pipeline.get_by_name("source"), pipeline.get_by_name("sink")
    source.set_property("caps", Gst.Caps.from_string(caps))
    pipeline.set_state(Gst.State.PLAYING)
    while header := sys.stdin.buffer.read(4):
        data = sys.stdin.buffer.read(*struct.unpack(">I", header))
        buffer = Gst.Buffer.new_wrapped(data)
        buffer.pts = struct.unpack_from(">I", data, 4)[0] * 100_000 // 9
        source.emit("push-buffer", buffer)
    source.emit("end-of-stream")
    while sample := sink.emit("try-pull-sample", LIMIT_NS):
        buffer = sample.get_buffer()
        data = buffer.extract_dup(0, buffer.get_size())
        sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
    pipeline.set_state(Gst.State.NULL)


if __name__ == "__main__":
    main(*sys.argv[1:])
