"""Measure the latency of the Open Inference Protocol next to ONNX Runtime without a server.

Contenders, each with 1, 4 and 16 parallel requests of one image (uint8 416×416): ``vision-infer serve`` over HTTP and over gRPC
with NVIDIA's client, and a plain pool of as many single-threaded ONNX Runtime sessions as the service runs, in this process. All
use the same graph. Each round runs all of them one directly after the other, in changing order. The control is the plain pool a
second time.

    python -m benchmarks.inference_protocol
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from benchmarks.inputs import RESULTS
from benchmarks.machine import describe_machine, source_line
from benchmarks.statistic import paired_ratio
from vision_infer.model.catalog import bundled_dir

MODEL = "nanodet-416"
PARALLEL = (1, 4, 16)
WORKERS = 2
"""The number of batches in flight in the service, and of sessions without it."""
START_S = 60.0

Ask = Callable[[], object]


@contextmanager
def service(folder: Path) -> Iterator[dict[str, str]]:
    """Run the service; yield its addresses."""
    file = folder / "serve.yaml"
    file.write_text(
        f"service: {{port: 0, requests_per_second: 100000, inference_protocol: {{grpc_port: 0}}}}\nmodel: {MODEL}\n"
        f"engine: onnxruntime-cpu-fp32\nworkers: {WORKERS}\npreview: {{enabled: false}}\n",
        encoding="utf-8",
    )
    log = folder / "log"
    environ = {**os.environ, "VISION_INFER_HOME": str(folder)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "vision_infer", "serve", str(file)], stdout=out, stderr=out, env=environ
        )
    try:
        deadline = time.monotonic() + START_S
        while "is loaded" not in (text := log.read_text(encoding="utf-8")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the service did not start: {text}")
            time.sleep(0.1)
        http, grpc = re.search(r"serves on http://(\S+)", text), re.search(r"over gRPC on (\S+)", text)
        assert http, text
        assert grpc, text
        yield {"http": http[1], "grpc": grpc[1]}
    finally:
        process.terminate()
        process.wait(START_S)


def client(kind: str, address: str) -> Callable[[], Ask]:
    """Return a function that connects a client, which can only be used in the thread that made it."""
    library = triton_http if kind == "http" else triton_grpc

    def connect() -> Ask:
        image = np.random.default_rng(threading.get_ident() % 1000).integers(0, 256, (1, 416, 416, 3)).astype(np.uint8)
        made = library.InferenceServerClient(address)
        given = library.InferInput("images", list(image.shape), "UINT8")
        given.set_data_from_numpy(image)
        return lambda: made.infer(MODEL, [given]).as_numpy("boxes")

    return connect


def plain() -> Callable[[], Ask]:
    """Return the same for the pool of sessions."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = str(bundled_dir() / MODEL / "model.onnx")
    free: queue.SimpleQueue[onnxruntime.InferenceSession] = queue.SimpleQueue()
    workers = ThreadPoolExecutor(WORKERS)  # in the order of the requests, as in the service
    for _ in range(WORKERS):
        free.put(onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]))

    def connect() -> Ask:
        image = np.random.default_rng(threading.get_ident() % 1000).integers(0, 256, (1, 416, 416, 3)).astype(np.uint8)

        def run() -> object:
            session = free.get()
            try:
                return session.run(None, {"images": image})
            finally:
                free.put(session)

        return lambda: workers.submit(run).result()

    return connect


def measure(connect: Callable[[], Ask], parallel: int, seconds: float) -> tuple[float, float, float]:
    """Return the median and the 95th percentile of the latency in milliseconds, and the requests per second."""
    spent: list[float] = []
    barrier = threading.Barrier(parallel + 1)

    def work() -> None:
        ask = connect()
        ask()
        barrier.wait()
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            ask()
            spent.append((time.perf_counter() - begin) * 1e3)

    threads = [threading.Thread(target=work) for _ in range(parallel)]
    for thread in threads:
        thread.start()
    barrier.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    p95 = statistics.quantiles(spent, n=20)[-1]
    return statistics.median(spent), p95, len(spent) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    machine = describe_machine()
    measured: dict[str, dict[str, list[tuple[float, float, float]]]] = {str(number): {} for number in PARALLEL}
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as addresses:
        pool = plain()
        contenders = {
            "plain": pool,
            "http": client("http", addresses["http"]),
            "grpc": client("grpc", addresses["grpc"]),
            "control": pool,
        }
        names = list(contenders)
        for number in range(given.rounds):
            for parallel in PARALLEL:
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    found = measure(contenders[name], parallel, given.seconds)
                    measured[str(parallel)].setdefault(name, []).append(found)
                    print(f"{parallel:3} {name:8} {found[0]:7.1f} ms", flush=True)
    print(source_line(machine))
    print("| parallel requests | contender | p50, ms | p95, ms | requests/s | p50 against plain |")
    print("| --- " * 6 + "|")
    for label, by_name in measured.items():
        for name, found_all in by_name.items():
            p50, p95, rate = (statistics.median(values) for values in zip(*found_all, strict=True))
            ratio = paired_ratio([one[0] for one in found_all], [one[0] for one in by_name["plain"]])
            print(f"| {label} | {name} | {p50:.1f} | {p95:.1f} | {rate:.1f} | {ratio} |")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "inference_protocol.json").write_text(json.dumps({"machine": machine, "measured": measured}, indent=1))


if __name__ == "__main__":
    main()
