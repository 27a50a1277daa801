"""``run --cluster`` over a folder of clips on two nodes: the rows of one machine, a broken file, a lost node, and resume."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.media import B_FRAMES, H264, NTSC, ROOT, changed, clip
from tests.support.ray_cluster import RayCluster
from tests.support.serve_process import LIMIT_S

pytest.importorskip("ray")
pytest.importorskip("pandas")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("ray"), "a", "b", cpus=1) as running:
        yield running


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips, two of which have the same name in different folders."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(11):
        shutil.copy(clip((H264, B_FRAMES, NTSC)[number % 3]), folder / f"clip{number:02}.mp4")
    (folder / "more").mkdir()
    shutil.copy(clip(NTSC), folder / "more" / "clip00.mp4")
    return folder


def run(folder: Path, out: Path, *more: str, cluster: RayCluster | None = None) -> subprocess.Popen[str]:
    line = [
        sys.executable,
        "-m",
        "vision_infer",
        "run",
        str(folder),
        "--recursive",
        "--model",
        "clock",
        "--engine",
        "null-cpu-none",
    ]
    line += ["--out", f"{out}/", "--formats", "jsonl", *more]
    line += [] if cluster is None else ["--cluster", cluster.address, "--insecure-cluster"]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def ended(process: subprocess.Popen[str], status: int = 0) -> str:
    _, errors = process.communicate(timeout=2 * LIMIT_S)
    assert process.returncode == status, errors
    return errors


def rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows by file, without the times that were measured."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        found[path.name] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in found[path.name]:
            del row["latency_ms"]
    return found


def test_the_rows_are_those_of_one_machine(cluster: RayCluster, archive: Path, tmp_path: Path) -> None:
    ended(run(archive, tmp_path / "alone"))
    text = ended(run(archive, tmp_path / "cluster", cluster=cluster))
    alone = rows(tmp_path / "alone")
    assert rows(tmp_path / "cluster") == alone
    assert len(alone) == 12
    frames = sum(map(len, alone.values()))
    assert f"12/12 files, {frames} frames in " in text
    assert "has outputs of clip00" in ended(run(archive, tmp_path / "cluster", cluster=cluster), 2)
    (tmp_path / "cluster" / "clip03.jsonl").unlink()
    assert "1/1 files" in ended(run(archive, tmp_path / "cluster", "--resume", cluster=cluster))
    assert rows(tmp_path / "cluster") == alone
    assert not [name for name in os.listdir(tmp_path / "cluster") if name.startswith(".")]


def test_a_broken_file_costs_the_others_nothing(cluster: RayCluster, archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    shutil.copy(changed(H264, "cut"), folder / "broken.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    text = ended(run(folder, tmp_path / "out", cluster=cluster), 1)
    assert "14/14 files" in text
    assert "error: empty: " in text
    assert rows(tmp_path / "out").keys() >= {f"clip{number:02}.jsonl" for number in range(11)}


def test_the_files_of_a_lost_node_are_read_by_another(cluster: RayCluster, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(200):
        shutil.copy(clip(B_FRAMES), folder / f"clip{number:03}.mp4")
    process = run(folder, tmp_path / "out", cluster=cluster)
    deadline = time.monotonic() + LIMIT_S
    while len(list((tmp_path / "out").glob("*.jsonl"))) < 20:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    cluster.remove("b")
    assert "200/200 files, 8000 frames in " in ended(process)
    found = rows(tmp_path / "out")
    assert len(found) == 200
    assert all([row["frame"] for row in one] == list(range(40)) for one in found.values()), "every frame once"
