"""vision-infer on cameras, with a sink that passes the frames with results to the meter.

python -m benchmarks.peers.ours_live --model GRAPH.onnx --engine NAME --seconds S URL...
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.live_meter import Meter
from vision_infer.core.frame import Frame
from vision_infer.core.image import LumaImage
from vision_infer.core.result import Result
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import Lane, make_selector
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.sink.sink import Written
from vision_infer.stream.source import SourceSpec


class MeterSink:
    """A sink that passes the frames with results to the meter."""

    needs_images = True
    outputs: Sequence[Written] = ()

    def __init__(self, meter: Meter, urls: Sequence[str]) -> None:
        self._meter = meter
        self._urls = urls

    def write(self, frame: Frame, result: Result | None) -> None:
        """Pass the frame to the meter."""
        image = frame.image
        if result is not None and isinstance(image, LumaImage):
            self._meter.done(self._urls[int(frame.stream)], image.luma(frame.image.size.width))

    def close(self, complete: bool) -> None:
        """Do nothing."""


def main() -> None:
    """Run on the cameras for the given time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--engine-dir", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("urls", nargs="+")
    args = parser.parse_args()
    with open_engine(args.model, EngineRequest(engine=args.engine, engine_dir=args.engine_dir)) as engine:
        print(f"{args.engine}: {engine.name}", file=sys.stderr)
        engine.warm_up()
        lane = Lane("main", engine, make_selector(engine.card, 0.35, 0.6, None))
        meter = Meter(args.seconds)
        with Supervisor([lane], [MeterSink(meter, args.urls)]) as supervisor:
            for number, url in enumerate(args.urls):
                supervisor.add(AddStream(SourceSpec(str(number), "live", (url,)), "main"))
            while not meter.over:
                time.sleep(0.05)
        meter.report()


if __name__ == "__main__":
    main()
