"""Images that need far more memory than their size suggests are refused before they are decoded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.hostile.bombs import NAMES, make_bombs
from tests.hostile.conftest import Serve, Spent, bounded
from tests.support.media import ROOT

MB = 1_000_000
MAX_GROWTH = 60 * MB
"""Far less than the hundreds of megabytes that each of them needs."""
DECODE = """
import json, sys
from tests.support.memory import peak_bytes
from vision_infer.core.errors import StreamError
from vision_infer.stream.files.images import read_image
before, refusals = peak_bytes(), {}
for path in sys.argv[1:]:
    try:
        refusals[path] = f"decoded: {read_image(path, 1_000_000).shape}"
    except StreamError as error:
        refusals[path] = error.message
print(json.dumps([peak_bytes() - before, refusals]))
"""
RUN = """
import resource, subprocess, sys
status = subprocess.run([sys.executable, "-m", "vision_infer", "run", *sys.argv[1:]]).returncode
print("peak:", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(status)
"""
"""A small process starts the run, since the peak of a child process includes the memory of the process that started it."""


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    for name, data in make_bombs().items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_bomb_is_refused_with_little_memory(bombs: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DECODE, name],
        cwd=bombs,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    growth, refusals = json.loads(done.stdout)
    assert growth < MAX_GROWTH
    assert any(
        reason in refusals[name] for reason in ("the image format is not supported", "cannot be decoded", "exceeds the limit")
    )


def test_run_refuses_a_folder_of_bombs(bombs: Path) -> None:
    """A renamed JPEG 2000 file and a PNG with a long chunk are found by their suffixes."""
    named = [str(bombs / name) for name in NAMES]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(bombs), *named, "--model", "clock"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert int(done.stdout.rpartition("peak:")[2]) < 500 * MB
    assert "renamed.png: the image format is not supported (supported: JPEG, PNG, WEBP, BMP, TIFF)" in done.stderr
    assert "chunk.png: cannot be decoded. It is damaged or incomplete. Check the file." in done.stderr


@pytest.mark.slow
def test_the_service_refuses_every_bomb(serve: Serve) -> None:
    served = serve("model: clock\nstreams: {one: {url: 'test://'}}\n")
    with bounded(served, Spent(memory_mb=MAX_GROWTH / MB, log_bytes=10_000)):
        for name, data in make_bombs().items():
            request = urllib.request.Request(
                f"http://127.0.0.1:{served.port}/api/v1/infer", data=data, headers={"Content-Type": "image/png"}
            )
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=30)
            with caught.value as refused:
                assert refused.code in (415, 422), name


def test_opencv_refuses_images_above_the_limit_of_the_process() -> None:
    """It is the second line of defense, for a header that OpenCV reads differently."""
    script = """
import sys
from vision_infer.stream.image_size import limit_opencv
limit_opencv(1000)
assert "cv2" not in sys.modules
import cv2, numpy as np
for side in (30, 40):
    done, data = cv2.imencode(".png", np.zeros((side, side, 3), np.uint8))
    try:
        print(side, cv2.imdecode(data, cv2.IMREAD_COLOR) is not None)
    except cv2.error:
        print(side, False)
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_IO")}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["30", "True", "40", "False"]
