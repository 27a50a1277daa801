"""Measure decoding with NVDEC and on the CPU by number of streams: frames/s, CPU time per frame, GPU memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.gpu.plan import Row, Step
from benchmarks.inputs import clip, looped
from vision_infer.stream.find import open_source
from vision_infer.stream.source import Decode, SourceSpec

CASES: tuple[tuple[Decode, int], ...] = (*(("nvdec", count) for count in (1, 2, 4, 8, 16, 32, 50, 64)), ("cpu", 1), ("cpu", 16))
"""The decoder and the number of streams of each row."""
_LOOPS = 4
_START_S = 120


def steps(cases: Sequence[tuple[Decode, int]] = CASES) -> Iterator[Step]:
    """Yield a step for each case; all its streams decode the same clip, 1080p and 20 s, at the same time."""
    for decode, count in cases:
        yield f"{decode}, {count} streams", partial(_rows, decode, count)


def _rows(decode: Decode, count: int) -> Iterator[Row]:
    from vision_infer.engine.gpu.cuda import cuda_device

    device = cuda_device(0) if decode == "nvdec" else None
    yield measured(looped(clip("1080p"), _LOOPS), decode, count, lambda: device.memory()[0] if device else 0)


def measured(clip: Path, decode: Decode, count: int, free_bytes: Callable[[], int]) -> Row:
    """Decode a clip in several streams; return the row.

    Args:
        free_bytes: Returns the free memory of the GPU.
    """
    frames, warnings, failed = [0] * count, [""] * count, []
    taken = 0
    ready = threading.Barrier(count + 1, timeout=_START_S)

    def read(number: int) -> None:
        try:
            with open_source(SourceSpec(f"{decode}-{number}", "video", (str(clip),), decode=decode)) as source:
                decoded = source.frames()
                next(decoded)
                ready.wait()
                for _ in decoded:
                    frames[number] += 1
                warnings[number] = "; ".join(source.report.warnings)
        except Exception as error:  # noqa: BLE001 - reported in the row
            failed.append(str(error))
            ready.abort()

    before = free_bytes()
    threads = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        ready.wait()
        taken = before - free_bytes()
    except threading.BrokenBarrierError:
        pass
    began, cpu = time.monotonic(), time.process_time()
    for thread in threads:
        thread.join()
    seconds, cpu_seconds, whole = time.monotonic() - began, time.process_time() - cpu, sum(frames)
    if failed or any(warnings) or not whole:
        reasons = [*failed, *filter(None, warnings), "no frame was decoded"]
        return {"decode": decode, "streams": count, "left_out": reasons[0]}
    return {
        "decode": decode,
        "streams": count,
        "fps": round(whole / seconds, 1),
        "cpu_ms_a_frame": round(1000 * cpu_seconds / whole, 3),
        "gpu_bytes": taken if decode == "nvdec" else 0,
    }
