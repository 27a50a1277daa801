"""The services of compose.yaml as Docker Compose resolves them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from tests.support.media import ROOT


def composed(name: str, **environ: str) -> dict[str, Any]:
    """Return a service with the variables of the file replaced; skip the test without ``docker-compose``."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    command = ["docker-compose", "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, check=True, timeout=60)
    service: dict[str, Any] = json.loads(done.stdout)["services"][name]
    return service
