"""``run --cluster`` over an archive on two nodes: the rows of one machine, object storage, broken files, a lost node, resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from tests.support.archive import ended, make_archive, row_bytes, run, tables, without_times
from tests.support.media import B_FRAMES, H264, ROOT, Clip, changed, clip
from tests.support.ray_cluster import RayCluster
from tests.support.s3_server import s3_server
from tests.support.serve_process import LIMIT_S

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

HOOK = """
import os, pathlib, signal, time
folder = pathlib.Path(__file__).parent
def kill(frame, result):
    if result.stream.startswith("poison") and result.frame == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
def wait(frame, result):
    (folder / f"reader-{os.getpid()}").touch()
    end = time.monotonic() + 60
    while not (folder / "go").exists() and time.monotonic() < end:
        time.sleep(0.02)
    return result
"""


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hooks: one ends the process at a frame of some files, as a decoder with a bug does; one waits for a file."""
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "poison.py").write_text(HOOK, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def storage() -> Iterator[dict[str, str]]:
    with s3_server() as environ:
        yield environ


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, hooks: Path, storage: dict[str, str]) -> Iterator[RayCluster]:
    environ = {**storage, "PYTHONPATH": f"{ROOT}:{hooks}"}
    with RayCluster(tmp_path_factory.mktemp("ray"), "a", "b", cpus=1, environ=environ) as running:
        yield running


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive") / "in")


def test_the_rows_are_those_of_one_machine(cluster: RayCluster, archive: Path, tmp_path: Path) -> None:
    ended(run(archive, tmp_path / "alone"))
    out, summary = tmp_path / "cluster", tmp_path / "summary.json"
    text = ended(run(archive, out, "--summary", str(summary), cluster=cluster))
    alone = row_bytes(tmp_path / "alone")
    assert row_bytes(out) == alone
    frames = sum(rows.count(b"\n") for rows in alone.values())
    assert f"12/12 files, {frames} frames, " in text
    account = json.loads(summary.read_text(encoding="utf-8"))
    assert account["frames"] == frames
    assert sum(account["files_by_node"].values()) == 12
    assert "clip000.jsonl: exists already" in ended(run(archive, out, cluster=cluster), 5)
    (out / "clip003.jsonl").unlink()
    began = time.time()
    assert "12/12 files" in ended(run(archive, out, "--resume", cluster=cluster))
    assert [path.name for path in sorted(out.glob("clip*")) if path.stat().st_mtime >= began] == [
        "clip003.jsonl",
        "clip003.parquet",
    ]
    assert row_bytes(out) == alone


def test_object_storage(cluster: RayCluster, archive: Path, tmp_path: Path, storage: dict[str, str]) -> None:
    import fsspec

    s3 = fsspec.filesystem("s3", skip_instance_cache=True)
    s3.mkdir("films")
    s3.put(f"{archive}/", "s3://films/in", recursive=True)
    ended(run(archive, tmp_path / "alone"))
    ended(run("s3://films/in/", "s3://films/out", cluster=cluster, environ=storage))
    s3.invalidate_cache()
    found = {path.rpartition("/")[2]: without_times(s3.cat_file(path)) for path in s3.glob("s3://films/out/*.jsonl")}
    assert found == row_bytes(tmp_path / "alone")
    text = ended(run("s3://films/in/", "s3://films/out", "--resume", cluster=cluster, environ=storage))
    assert "12/12 files, 0 frames" in text


def test_broken_files_cost_the_others_nothing(cluster: RayCluster, archive: Path, tmp_path: Path, hooks: Path) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    shutil.copy(changed(H264, "cut"), folder / "broken.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    for number in range(2):  # the process that reads it is killed
        shutil.copy(clip(H264), folder / f"poison{number}.mp4")
    environ = {"PYTHONPATH": str(hooks)}
    text = ended(run(folder, tmp_path / "out", "--hook", "poison:kill", cluster=cluster, environ=environ), 1)
    assert "16/16 files" in text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert sum("the process that read it ended" in line and "poison" in line for line in errors) == 2
    assert sum("empty.mp4" in line for line in errors) == 1
    ended(run(archive, tmp_path / "alone"))
    found = row_bytes(tmp_path / "out")
    assert {name: found[name] for name in row_bytes(tmp_path / "alone")} == row_bytes(tmp_path / "alone")


def test_a_node_that_joins_reads_too(cluster: RayCluster, tmp_path: Path, hooks: Path) -> None:
    make_archive(tmp_path / "in", 29)
    environ = {"PYTHONPATH": str(hooks)}
    process = run(tmp_path / "in", tmp_path / "out", "--hook", "poison:wait,timeout_s=100", cluster=cluster, environ=environ)
    wait_for(hooks, 2, process, "reader-*")
    cluster.add("c")
    wait_for(hooks, 3, process, "reader-*")
    (hooks / "go").touch()
    text = ended(process)
    assert "30/30 files" in text
    assert ", 3 nodes" in text
    cluster.remove("c")


def test_a_stopped_run_continues_with_what_is_missing(cluster: RayCluster, tmp_path: Path) -> None:
    folder, out = tmp_path / "archive", tmp_path / "out"
    make_archive(folder, 99)
    process = run(folder, out, cluster=cluster)
    wait_for(out, 10, process)
    process.send_signal(signal.SIGTERM)
    ended(process, 128 + signal.SIGTERM)
    assert len(list(out.glob("*.parquet"))) < 100
    ended(run(folder, out, "--resume", cluster=cluster))
    ended(run(folder, tmp_path / "alone"))
    assert row_bytes(out) == row_bytes(tmp_path / "alone")


def test_a_long_file_is_read_by_several_nodes(cluster: RayCluster, tmp_path: Path) -> None:
    cluster.add("c")
    film = clip(Clip(rate=Fraction(1), frames=6000))
    process = run(film, tmp_path / "out", cluster=cluster)
    wait_for(tmp_path / "out", 8, process, ".*.part")
    cluster.remove("c")
    text = ended(process)
    assert "1/1 files, 6000 frames, " in text
    assert ", 2 nodes" in text or ", 3 nodes" in text
    ended(run(film, tmp_path / "alone"))
    assert row_bytes(tmp_path / "out") == row_bytes(tmp_path / "alone")
    assert tables(tmp_path / "out") == tables(tmp_path / "alone")
    assert not list((tmp_path / "out").glob(".*.part"))


def test_the_files_of_a_lost_node_are_read_by_the_others(cluster: RayCluster, tmp_path: Path, hooks: Path) -> None:
    for file in (*hooks.glob("reader-*"), *hooks.glob("go")):
        file.unlink()
    cluster.add("d")
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(200):
        shutil.copy(clip(B_FRAMES), folder / f"clip{number:03}.mp4")
    environ = {"PYTHONPATH": str(hooks)}
    process = run(folder, tmp_path / "out", "--hook", "poison:wait,timeout_s=100", cluster=cluster, environ=environ)
    wait_for(hooks, 3, process, "reader-*")
    (hooks / "go").touch()
    wait_for(tmp_path / "out", 60, process)
    cluster.remove("b")
    assert "200/200 files, 8000 frames, " in ended(process)
    found = row_bytes(tmp_path / "out")
    assert len(found) == 200
    for rows in found.values():
        assert [json.loads(row)["frame"] for row in rows.splitlines()] == list(range(40)), "every frame once"
    assert not [name for name in os.listdir(tmp_path / "out") if name.endswith(".failed")]


def wait_for(folder: Path, count: int, process: subprocess.Popen[str], pattern: str = "*.parquet") -> None:
    """Wait until a folder has a number of files."""
    deadline = time.monotonic() + LIMIT_S
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
