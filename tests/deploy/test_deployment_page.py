"""The examples in docs/how-to/deploy.md work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.media import ROOT
from vision_infer.config.serve_file import load_settings

PAGE = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
CONFIGURATIONS = [block for block in BLOCKS if set(yaml.safe_load(block)) <= {"service", "streams", "results", "preview"}]
CREDENTIALS = "/run/credentials/vision-infer.service"


@pytest.mark.parametrize("number", range(len(CONFIGURATIONS)))
def test_a_configuration_is_valid(number: int, tmp_path: Path) -> None:
    for name in re.findall(CREDENTIALS + r"/secret_([\w.]+)", PAGE):
        (tmp_path / f"secret_{name}").write_text(f"{name}-0123456789\n", encoding="utf-8")
    copy = tmp_path / "cameras.yaml"
    copy.write_text(CONFIGURATIONS[number].replace(CREDENTIALS, str(tmp_path)), encoding="utf-8")
    settings = load_settings(copy, [], {}, {})
    for stream in settings.streams.values():
        assert "door-0123456789@" in stream.detect


def test_the_page_has_configurations_and_a_health_check() -> None:
    assert len(CONFIGURATIONS) == 3
    assert len(BLOCKS) == 4


def test_all_mentioned_files_exist() -> None:
    named = set(re.findall(r"(?<![\w/])deploy/[\w./-]+\w", PAGE)) - {
        "deploy/secrets/view_token",
        "deploy/secrets/grafana_password",
    }
    assert {"deploy/vision-infer.service", "deploy/make_secrets.sh", "deploy/prometheus.yml"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_health_check_with_tls_is_valid_python() -> None:
    (block,) = [block for block in BLOCKS if block not in CONFIGURATIONS]
    program = yaml.safe_load(block)["healthcheck"]["test"][-1]
    compile(program, "health check", "exec")
    assert subprocess.run([sys.executable, "-c", program.replace("8080", "1")], capture_output=True, check=False).returncode == 1
