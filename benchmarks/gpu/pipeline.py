"""Measure the whole pipeline by number of streams: ``vision-infer run`` on copies of a clip."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.engines import Contender
from benchmarks.inputs import copies

STREAMS = (1, 2, 4, 8, 16)
_TIMEOUT_S = 600


def by_streams(
    clip: Path,
    contenders: Sequence[Contender],
    engine_dir: Path,
    streams: Sequence[int] = STREAMS,
    decodes: Sequence[str] = ("nvdec", "cpu"),
    device: str = "cuda:0",
) -> Iterator[dict[str, Any]]:
    """Yield a row for each engine, decoder and number of streams, without PyTorch's compiler, which starts too slowly.

    Args:
        clip: The clip of which each stream reads a copy.
        contenders: The engines.
        engine_dir: The folder of plans, kept between runs.
        streams: The numbers of streams.
        decodes: The decoders.
        device: The device of the engines.
    """
    files = copies(clip, max(streams))
    for contender in contenders:
        runtime = contender.name.rsplit("-", 2)[0]
        if runtime == "torchcompile":
            continue
        words = ["--model", str(contender.graph), "--engine", runtime, "--device", device, "--engine-dir", str(engine_dir)]
        for decode in decodes:
            for count in streams:
                found = _run(files[:count], [*words, "--decode", decode])
                yield {"engine": contender.name, "decode": decode, "streams": count, **found}


def _run(files: Sequence[Path], words: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "vision_infer", "run", *map(str, files), *words, "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode:
        return {"left_out": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    summary = json.loads(done.stdout)
    return {
        "decoders": sorted({str(source["decoder"]) for source in summary["sources"]}),
        "fps": round(summary["frames"] / summary["seconds"], 1),
        "cpu_ms_a_frame": round(1000 * summary["cpu_seconds"] / max(1, summary["frames"]), 3),
        "bound_by": summary["bound_by"],
        "stages": summary["stages"],
    }
