"""Measure the CPU cost of the pipeline with an engine on a device: the driver calls of a batch, and the CPU time per frame.

The device is :class:`benchmarks.null_device.NullDevice`, so no GPU is needed. Decoding is not included; everything else is: the
images are in device memory, as NVDEC leaves them, and each is written into its slot there. Each driver call releases the GIL, so
their number also limits how well the pipeline's threads run next to each other.

    python -m benchmarks.device_cost [--frames 20000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import RESULTS
from benchmarks.machine import describe_machine, source_line
from benchmarks.null_device import NullDevice, NullModel, calls_a_batch
from benchmarks.own_cost import CARD, OUTPUTS, SIZE, ReadyImage, pipeline_us
from vision_infer.core.geometry import Letterbox, letterbox
from vision_infer.core.image import Slot, Surface
from vision_infer.engine.gpu.device_engine import IN_FLIGHT, DeviceEngine, batch_sizes_up_to
from vision_infer.engine.runtimes.null import CANDIDATES

BATCH = 8
STREAMS = (1, 4, 16, 64)
_BATCHES = 100


class DeviceImage(ReadyImage):
    """A decoded frame in device memory, as :class:`vision_infer.stream.nvdec.NvdecImage` is.

    Args:
        surface: Where it is; None: nowhere, because the device does not read it.
    """

    def __init__(self, surface: Surface | None = None) -> None:
        self._surface = surface

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        """Write it on the device."""
        surface = self._surface or Surface(SIZE, 1, SIZE.width, 1, SIZE.width, 1, 1, False, 0, self)
        written = slot.write_surface(surface, letterbox)  # type: ignore[attr-defined]
        assert written, "the slot is on another device"


def padded(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the outputs with as many candidates as models have."""
    made = {}
    for name, array in outputs.items():
        made[name] = np.zeros((CANDIDATES, *array.shape[1:]), array.dtype)
        made[name][: len(array)] = array
    return made


def make_engine(device: NullDevice, batch: int = BATCH) -> DeviceEngine:
    """Return an engine on the device that is warmed up."""
    engine = DeviceEngine("null-null-none", CARD, NullModel(padded(OUTPUTS)), device, batch_sizes_up_to(batch), IN_FLIGHT)
    engine.warm_up()
    return engine


def calls_of_a_batch(on_device: int, batch: int = BATCH) -> dict[str, float]:
    """Return the driver calls of a full batch by method, and their sum as ``all``.

    Args:
        on_device: The number of its images that are in device memory; the others are in host memory.
    """
    device = NullDevice(0)
    with make_engine(device, batch) as engine:
        before = dict(device.calls)
        image, layout = DeviceImage(), letterbox(SIZE, CARD.input_size, CARD.fit, CARD.fill)
        for _ in range(_BATCHES):
            loan = engine.lend(batch)
            for number, slot in enumerate(loan.slots):
                if number < on_device:
                    image.write_into(slot, layout)
                else:
                    slot.pixels[0, 0] = 1
            engine.collect(engine.submit(loan))
        return calls_a_batch(device.calls, before, _BATCHES)


def main() -> None:
    """Measure, print, and write ``device_cost.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    calls = {"all on the device": calls_of_a_batch(BATCH), "all on the host": calls_of_a_batch(0)}
    for name, found in calls.items():
        listed = ", ".join(f"{method} {count:g}" for method, count in found.items() if method != "all")
        print(f"batch of {BATCH}, images {name}: {found['all']:g} driver calls ({listed})")
    seen: dict[int, list[float]] = {streams: [] for streams in STREAMS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for streams in STREAMS:
                engine = make_engine(NullDevice())
                seen[streams].append(pipeline_us(args.frames, streams, engine, Path(folder) / "rows.jsonl", DeviceImage())[0])
    for streams, values in seen.items():
        spread = f"({min(values):.1f}–{max(values):.1f})"
        print(f"{streams:>2} streams, batch {BATCH} {statistics.median(values):7.1f} µs of CPU per frame {spread}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    print(source_line(machine))
    report = {"machine": machine, "frames": args.frames, "calls_a_batch": calls, "cpu_us_per_frame": seen}
    (RESULTS / "device_cost.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
