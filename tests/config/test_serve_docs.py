"""What docs/serve-config.md shows is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.media import ROOT
from vision_infer.config.serve_file import load_settings
from vision_infer.core.errors import UsageError

PAGE = (ROOT / "docs" / "serve-config.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_load(tmp_path: Path) -> None:
    path = tmp_path / "cameras.yaml"
    (tmp_path / "token").write_text("a-long-token")
    (tmp_path / "cam").write_text("p@ss")
    assert len(BLOCKS) == 2
    path.write_text(BLOCKS[0])
    assert [stream.fps for stream in load_settings(path, [], {}, {}).streams.values()] == [10, 5]
    path.write_text(BLOCKS[1].replace("/run/secrets", str(tmp_path)))
    settings = load_settings(path, [], {"CAM_PASSWORD": "a b"}, {})
    assert settings.service.token is not None
    assert settings.streams["front"].detect == "rtsp://user:a%20b@192.0.2.10/sub"
    assert settings.streams["front"].view == "rtsp://user:p%40ss@192.0.2.10/main"


@pytest.mark.parametrize(("page", "number"), [("clips", 0), ("gate", 0), ("sinks", 0), ("sinks", 2)])
def test_the_examples_of_other_pages_load(page: str, number: int, tmp_path: Path) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for secret in ("mqtt", "hook"):
        (tmp_path / secret).write_text("a-long-secret")
    path = tmp_path / "cameras.yaml"
    path.write_text(blocks[number].replace("/run/secrets", str(tmp_path)))
    assert load_settings(path, [], {}, {}).model_fields_set


def test_the_variables_are_settings(tmp_path: Path) -> None:
    found = re.findall(r"^    (VISION_INFER_\w+)=(\S+)", PAGE, re.MULTILINE)
    assert len(found) == 5
    path = tmp_path / "cameras.yaml"
    path.write_text("streams: {front-door: {url: 'test://'}}")
    settings = load_settings(path, [], {name: value.strip("'") for name, value in found}, {})
    assert (settings.service.port, settings.streams["front-door"].fps) == (9000, 2)
    assert settings.service.allow_networks == ("10.0.0.0/8",)


def test_the_mistakes_are_told_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = re.findall(r"^    (cameras\.yaml: .*|VISION_INFER_\w+: .*)$", PAGE, re.MULTILINE)
    assert len(told) == 3
    Path("cameras.yaml").write_text("streams:\n  front:\n    url: test://\n" + "\n" * 8 + "    fps: -1\n\n    transprot: tcp\n")
    with pytest.raises(UsageError) as caught:
        load_settings(Path("cameras.yaml"), [], {"VISION_INFER_SERVICE__PROT": "1"}, {})
    for line in told:
        assert line in caught.value.message


def test_the_tables_are_those_of_the_settings() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "docs" / "make_config.py", "--check"], cwd=ROOT, capture_output=True, check=False
    )
    assert check.returncode == 0, check.stderr
