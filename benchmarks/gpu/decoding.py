"""Measure decoding with NVDEC and on the CPU by number of streams: frames/s, CPU time per frame, GPU memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vision_infer.stream.find import open_source
from vision_infer.stream.source import Decode, SourceSpec

STREAMS = (1, 2, 4, 8, 16, 32)


def by_streams(
    clip: Path,
    streams: Sequence[int] = STREAMS,
    free_bytes: Callable[[], int] = lambda: 0,
    decodes: Sequence[Decode] = ("nvdec", "cpu"),
) -> Iterator[dict[str, Any]]:
    """Yield a row for each decoder and number of streams; all streams decode the clip at the same time.

    Args:
        clip: The clip.
        streams: The numbers of simultaneous streams.
        free_bytes: Returns the free memory of the GPU.
        decodes: The decoders.
    """
    for decode in decodes:
        for count in streams:
            yield _measured(clip, decode, count, free_bytes)


def _measured(clip: Path, decode: Decode, count: int, free_bytes: Callable[[], int]) -> dict[str, Any]:
    frames, warnings, failed = [0] * count, [""] * count, []
    taken = 0
    ready = threading.Barrier(count + 1)

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
    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
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
