"""What Ray reports is logged, so that standard output has only rows, tables and JSON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ray_cluster import RayCluster

pytest.importorskip("ray")

LIMIT_S = 120.0
"""The time to connect and to receive a message on a busy machine, seconds."""
PROGRAM = """
import logging, sys, threading

import ray
from vision_infer.cluster.connect import connect


class Received(logging.Handler):
    def emit(self, record):
        print(record.getMessage(), file=sys.stderr)
        if "a node was lost" in record.getMessage():
            received.set()


received = threading.Event()
logging.getLogger("vision_infer.cluster").addHandler(Received())
logging.getLogger("vision_infer.cluster").setLevel("INFO")
connect(sys.argv[1], True)


@ray.remote(num_cpus=0)
def report():
    from ray._private.utils import publish_error_to_driver

    publish_error_to_driver("node_removed", "a node was lost", ray._private.worker.global_worker.gcs_client)


for _ in range(60):  # a message that is sent before Ray listens is lost
    ray.get(report.remote())
    if received.wait(1):
        break
print("rows")
"""


@pytest.mark.slow
def test_messages_of_ray_are_logged(tmp_path: Path) -> None:
    with RayCluster(tmp_path, "a") as cluster:
        line = [sys.executable, "-c", PROGRAM, cluster.address]
        done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.stdout == "rows\n", done.stderr
    assert "Ray: a node was lost" in done.stderr
