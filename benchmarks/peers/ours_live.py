"""vision-infer on cameras, as users run it: the service as a process, and a client that reads results over the WebSocket.

    python -m benchmarks.peers.ours_live --model GRAPH.onnx --engine NAME --engine-dir DIR --seconds S URL...

A client has no image and cannot read its time code. It notes when a result arrived and, by the age that the service reports,
when its frame was captured. ``live.py`` uses the latter only to tell which frame of the camera it was; the time at which that
frame was sent comes from the witness, as for all other programs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from benchmarks.live_reader import Reader
from benchmarks.live_service import LiveService


def main() -> None:
    """Run on the cameras for the given time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--engine-dir", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("urls", nargs="+")
    args = parser.parse_args()
    streams = {f"camera-{number}": {"detect": url, "confidence": 0.35, "iou": 0.6} for number, url in enumerate(args.urls)}
    settings = {"model": str(args.model), "engine": args.engine, "engine_dir": str(args.engine_dir), "streams": streams}
    with LiveService(settings) as service:
        with Reader(service.results_url) as reader:
            service.wait(lambda: reader.rows, 60.0, "there is no result")
            time.sleep(args.seconds)
        rows = reader.rows
    ends = rows[0].received_ns + args.seconds * 1e9
    urls = dict(zip(streams, args.urls, strict=True))
    notes = [
        (urls[row.stream], row.received_ns / 1e9 - row.reported_ms / 1e3, row.received_ns / 1e9)
        for row in rows
        if row.received_ns <= ends
    ]
    print(json.dumps(notes), flush=True)


if __name__ == "__main__":
    main()
