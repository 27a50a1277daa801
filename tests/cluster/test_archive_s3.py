"""``run --cluster`` from and to an S3 server on the loopback interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.free_port import free_port
from tests.support.media import H264, NTSC, ROOT, clip
from tests.support.ray_cluster import RayCluster
from tests.support.serve_process import LIMIT_S
from tests.support.waiting import wait_until

for module in ("ray", "pandas", "s3fs", "moto"):
    pytest.importorskip(module)
pytestmark = pytest.mark.slow


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of clients of a running server."""
    port = free_port()
    with (tmp_path / "s3.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
        try:
            wait_until(lambda: b"Running on" in (tmp_path / "s3.log").read_bytes(), "the server to listen", LIMIT_S)
            yield {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-store",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        finally:
            server.kill()
            server.wait()


def test_sources_and_outputs_are_objects(environ: dict[str, str], tmp_path: Path) -> None:
    def python(code: str) -> str:
        line = [sys.executable, "-c", f"import fsspec; s3 = fsspec.filesystem('s3'); {code}"]
        return subprocess.run(line, capture_output=True, text=True, check=True, env={**os.environ, **environ}).stdout

    python("s3.mkdir('videos')")
    python(f"s3.put_file({str(clip(H264))!r}, 'videos/2026/a.mp4'); s3.put_file({str(clip(NTSC))!r}, 'videos/2026/more/a.mp4')")
    with RayCluster(tmp_path, "a", cpus=1, environ=environ) as cluster:

        def run(*more: str) -> str:
            line = [sys.executable, "-m", "vision_infer", "run", "s3://videos/2026/", "--recursive", "--model", "clock"]
            line += ["--engine", "null-cpu-none", "--out", "s3://videos/rows/", "--formats", "jsonl", *more]
            line += ["--cluster", cluster.address, "--insecure-cluster"]
            done = subprocess.run(
                line, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environ}, timeout=LIMIT_S
            )
            assert done.returncode == 0, done.stderr
            return done.stderr

        assert "2/2 files, 55 frames in " in run()
        assert python("print(s3.ls('videos/rows'))").strip() == "['videos/rows/a-2.jsonl', 'videos/rows/a.jsonl']"
        first = [json.loads(line) for line in python("print(s3.cat('videos/rows/a.jsonl').decode(), end='')").splitlines()]
        assert [row["frame"] for row in first] == list(range(25))
        assert {row["stream"] for row in first} == {"a"}
        assert "0/0 files" in run("--resume")
        python("s3.rm('videos/rows/a-2.jsonl')")
        assert "1/1 files, 30 frames in " in run("--resume")
