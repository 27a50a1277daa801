"""The plain programs with which the live service is compared; each runs as a separate process and prints one line of JSON.

    python -m benchmarks.live_bare age URL SECONDS          decode, read the time code, record the age
    python -m benchmarks.live_bare decode SECONDS URL…      decode in a thread for each camera, and nothing else
    python -m benchmarks.live_bare queue SECONDS MODEL URL… a loop for each camera that infers every frame in order

All open a camera as the service does: TCP, no probing, and no decoder threads, because those delay frames.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator

import av
import numpy as np
import onnxruntime as ort
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from vision_infer.core.time_code import since_ms
from vision_infer.stream.time_code_reader import read

OPTIONS = {"rtsp_transport": "tcp", "probesize": "32", "analyzeduration": "0", "fflags": "nobuffer"}
TIMEOUT_S = 20.0
WARM_UP_S = 2.0


def frames(url: str, seconds: float) -> Iterator[av.VideoFrame]:
    """Yield the frames of a camera for a time that starts with the first frame."""
    with av.open(url, options=OPTIONS, timeout=(TIMEOUT_S, TIMEOUT_S)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        end = None
        for frame in container.decode(stream):
            now = time.monotonic()
            end = now + seconds if end is None else end
            if now >= end:
                return
            yield frame


def luma(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Return the luma plane of a frame, uint8 [H, W], without copying."""
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)[:, : frame.width]


def ages(url: str, seconds: float) -> dict[int, float]:
    """Return the age of each frame when it was read, milliseconds, by its time code."""
    found: dict[int, float] = {}
    warm = time.monotonic() + WARM_UP_S
    for frame in frames(url, seconds + WARM_UP_S):
        moment = read(luma(frame))
        now = time.monotonic_ns()
        if moment is not None and now > warm * 1e9:
            found[moment] = since_ms(moment, now)
    return found


def decode_all(urls: list[str], seconds: float) -> dict[str, float]:
    """Return the cost of decoding: cores, and frames per second of all cameras together."""
    counts = [0] * len(urls)
    ready = threading.Barrier(len(urls) + 1)

    def work(number: int) -> None:
        first = True
        for _ in frames(urls[number], seconds + WARM_UP_S):
            if first:
                first = False
                ready.wait()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(urls))]
    for thread in threads:
        thread.start()
    ready.wait()
    time.sleep(WARM_UP_S / 2)
    before, cpu, began = sum(counts), time.process_time(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    used = {"cores": (time.process_time() - cpu) / took, "frames_per_second": (sum(counts) - before) / took}
    for thread in threads:
        thread.join()
    return used


def in_order(urls: list[str], model: str, seconds: float) -> list[list[tuple[float, float]]]:
    """Return, for each camera, the time when a frame was inferred and its difference to the presentation time, seconds.

    The offset of the difference has no meaning; its growth is that of the age.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    height, width = session.get_inputs()[0].shape[1:3]
    turns = threading.Semaphore(2)
    seen: list[list[tuple[float, float]]] = [[] for _ in urls]

    def work(number: int) -> None:
        scaler = VideoReformatter()
        for frame in frames(urls[number], seconds):
            small = scaler.reformat(frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1)
            pixels = small.to_ndarray()[None]
            with turns:
                session.run(None, {"images": pixels})
            now = time.monotonic()
            if frame.time is not None:
                seen[number].append((now, now - frame.time))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(urls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def main() -> None:
    """Run one of the programs."""
    match sys.argv[1:]:
        case ["age", url, seconds]:
            print(json.dumps(ages(url, float(seconds))))
        case ["decode", seconds, *urls]:
            print(json.dumps(decode_all(urls, float(seconds))))
        case ["queue", seconds, model, *urls]:
            print(json.dumps(in_order(urls, model, float(seconds))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
