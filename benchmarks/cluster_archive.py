"""Measure an archive on a cluster of two nodes with one core each, against one process with both cores.

python -m benchmarks.cluster_archive [--files 32] [--rounds 5] [--quick]

Both read the same files with the same model and write rows. The nodes are local; each is pinned to another core. The
throughput counts from the first open file to the last row, without the start of Ray. It is lower in the last seconds, when one
node has no files left, so the archive must not be too short.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.inputs import FP32, ROOT, clip, graph
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import Check, conclude

STORE_BYTES = 80 << 20
MIN_RATIO = 0.9
SAMPLE_S = 0.5
READER = "ArchiveReader"
"""The class of the actor that infers, which Ray shows as the title of its process."""


def main() -> int:
    """Run both in turn, and compare the medians of their throughput."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=32, help="The number of copies of the clip.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="One round with 4 files: only checks that it runs.")
    args = parser.parse_args()
    files, rounds = (4, 1) if args.quick else (args.files, args.rounds)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < len("ab"):
        print("two cores are needed")
        return 0
    machine = describe_machine()
    os.sched_setaffinity(0, cores)  # one process has the cores of both nodes
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _fill(folder / "in", files)
        with _cluster(cores) as (address, raylets):
            for number in range(rounds):
                turns = ["one process", "two nodes"]
                for who in turns if number % 2 == 0 else reversed(turns):
                    more = ["--cluster", address, "--insecure-cluster"] if who == "two nodes" else []
                    watched = raylets if more else {}
                    measured.append({"who": who, "round": number, **_run(folder, f"out{len(measured)}", more, watched)})
                    _show(measured[-1])
    alone, nodes = (statistics.median(of["fps"] for of in measured if of["who"] == who) for who in ("one process", "two nodes"))
    checks = [
        Check("throughput of two one-core nodes / one two-core process", nodes / alone, MIN_RATIO, "", at_most=False),
        Check("files that failed", sum(of["failed"] for of in measured), 0, "files"),
    ]
    return conclude("cluster_archive", machine, checks, measured)


def _fill(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        shutil.copyfile(clip("768x432"), folder / f"clip{number:03}.mp4")


@contextmanager
def _cluster(cores: list[int]) -> Iterator[tuple[str, dict[str, int]]]:
    """Run a head without CPUs and a node on each core; yield the address, and the process ids of the raylets by node."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "PYTHONPATH": str(ROOT)}
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    raylets = {}
    try:
        for core in cores:
            os.sched_setaffinity(0, {core})  # the processes of the node inherit it
            node = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, node_name=f"core{core}")
            raylets[f"core{core}"] = node.all_processes["raylet"][0].process.pid
        os.sched_setaffinity(0, cores)
        yield cluster.address, raylets
    finally:
        cluster.shutdown()


def _run(folder: Path, out: str, more: list[str], raylets: Mapping[str, int]) -> dict[str, Any]:
    summary = folder / f"{out}.json"
    command = [sys.executable, "-m", "vision_infer", "run", str(folder / "in"), "--model", str(graph("nanodet")), *FP32]
    command += ["--out", f"{folder / out}/", "--formats", "jsonl", "--summary", str(summary), "--quiet", *more]
    began = time.perf_counter()
    with ForeignLoad() as load, _Memory(raylets) as memory:
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
    wall_s = time.perf_counter() - began
    found = json.loads(summary.read_text(encoding="utf-8"))
    return {
        "fps": found["fps"],
        "frames": found["frames"],
        "seconds": found["seconds"],
        "wall_s": round(wall_s, 3),
        "failed": sum(bool(source["error"]) for source in found["sources"]) + (status != 0),
        "files_by_node": found.get("files_by_node"),
        "peak_rss_bytes": found.get("peak_rss_bytes"),
        "peak_bytes_by_node": memory.peaks,
        "foreign_cores": round(load.cores, 3),
    }


class _Memory:
    """Samples the memory (PSS) of the processes of each node: of the reader, and of everything else, which Ray adds.

    Args:
        raylets: The process ids of the raylets by node; the other processes of a node descend from them.
    """

    def __init__(self, raylets: Mapping[str, int]) -> None:
        self.peaks = {node: {"reader": 0, "ray": 0} for node in raylets}
        self._raylets = raylets
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while self._raylets and not self._ended.wait(SAMPLE_S):
            parents = _parents()
            for node, raylet in self._raylets.items():
                now = {"reader": 0, "ray": 0}
                for pid in _descendants(raylet, parents):
                    title, size = _title_and_pss(pid)
                    now["reader" if READER in title else "ray"] += size
                self.peaks[node] = {part: max(size, now[part]) for part, size in self.peaks[node].items()}


def _parents() -> dict[int, int]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found[int(name)] = int(Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    return found


def _descendants(root: int, parents: Mapping[int, int]) -> set[int]:
    found, more = {root}, True
    while more:
        born = {pid for pid, parent in parents.items() if parent in found} - found
        found, more = found | born, bool(born)
    return found


def _title_and_pss(pid: int) -> tuple[str, int]:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return "", 0
    return title, 1024 * next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def _show(of: Mapping[str, Any]) -> None:
    text = f"{of['who']:12} {of['fps']:8.1f} frames/s, {of['seconds']:6.1f} s of {of['wall_s']:6.1f} s"
    if of["peak_rss_bytes"]:
        text += f", peak {of['peak_rss_bytes'] / 1e6:.0f} MB"
    for node, peaks in of["peak_bytes_by_node"].items():
        text += f", {node}: reader {peaks['reader'] / 1e6:.0f} MB + Ray {peaks['ray'] / 1e6:.0f} MB"
    print(f"{text}, other programs {of['foreign_cores']:.2f} cores", flush=True)


if __name__ == "__main__":
    sys.exit(main())
