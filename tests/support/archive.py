"""An archive of short clips, runs over it, and the rows of its outputs without measured times, as bytes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.media import B_FRAMES, H264, NTSC, ROOT, clip
from tests.support.ray_cluster import RayCluster
from tests.support.serve_process import LIMIT_S

_LATENCY = re.compile(rb'"latency_ms": \{[^}]*\}')


def make_archive(folder: Path, count: int = 11) -> Path:
    """Copy clips into a folder, one of them with the name of another into a subfolder."""
    (folder / "more").mkdir(parents=True)
    for number in range(count):
        shutil.copy(clip((H264, B_FRAMES, NTSC)[number % 3]), folder / f"clip{number:03}.mp4")
    shutil.copy(clip(NTSC), folder / "more" / "clip000.mp4")
    return folder


def row_bytes(folder: Path) -> dict[str, bytes]:
    """Return the content of each JSONL file, with the measured times replaced."""
    return {path.name: without_times(path.read_bytes()) for path in sorted(folder.glob("*.jsonl"))}


def without_times(rows: bytes) -> bytes:
    """Return JSON lines with the measured times replaced."""
    return _LATENCY.sub(b'"latency_ms": {}', rows)


def tables(folder: Path) -> dict[str, Any]:
    """Return the tables of all Parquet files, without dictionaries and the columns of measured times."""
    import pyarrow as pa
    from pyarrow import parquet

    found = {}
    for path in sorted(folder.glob("*.parquet")):
        table = parquet.read_table(path)
        measured = [name for name in table.column_names if "latency" in name or name.endswith("_ms")]
        types = {field.name: field.type for field in table.schema}
        plain = {name: kind.value_type if pa.types.is_dictionary(kind) else kind for name, kind in types.items()}
        schema = pa.schema([field.with_type(plain[field.name]) for field in table.schema], table.schema.metadata)
        found[path.name] = table.cast(schema).drop_columns(measured)
    return found


def run(
    source: Path | str, out: Path | str, *more: str, cluster: RayCluster | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a run over an archive, on a cluster or in one process."""
    line = [sys.executable, "-m", "vision_infer", "run", str(source), "--recursive", "--model", "clock"]
    line += ["--engine", "null-cpu-none", "--out", f"{out}/", "--formats", "jsonl,parquet", *more]
    line += [] if cluster is None else ["--cluster", cluster.address, "--insecure-cluster"]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env={**os.environ, **(environ or {})})


def ended(process: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for the end of a run, and return what it has printed about its progress."""
    _, errors = process.communicate(timeout=2 * LIMIT_S)
    assert process.returncode == status, errors
    return errors
