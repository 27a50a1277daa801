"""Streams created over the API are restored after a restart, whatever happens to their files."""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.config.some_settings import STREAMS
from tests.support.disks import small_disk
from vision_infer.config.serve import ServiceSettings, StreamSettings
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.service.streams.stream_files import StreamFiles, state_folder

SERVICE = ServiceSettings()
FRONT = StreamSettings.model_validate(
    {
        "detect": "rtsp://user:p$$w${x@192.0.2.1/front".replace("${", "$%7B"),
        "fps": 5,
        "lines": {"door": {"from": [0, 0], "to": [9, 9]}},
        "zones": {"till": {"units": "relative", "polygon": [[0, 0], [1, 0], [1, 1]]}},
        "per_class": {"traffic light": 0.5},
        "reconnect": {"attempts": 3},
    }
)
YARD = StreamSettings(detect="test://")


def test_stored_streams_are_restored(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path / "state", SERVICE)
    assert files.read() == {}
    files.write("front", FRONT)
    files.write("Yard.2", YARD)
    again = StreamFiles(tmp_path / "state", SERVICE)
    assert again.read() == {"Yard.2": YARD, "front": FRONT}
    assert again.problems == ()
    files.write("front", YARD)
    files.remove("Yard.2")
    files.remove("Yard.2")
    assert again.read() == {"front": YARD}
    assert os.listdir(tmp_path / "state" / "streams") == ["front.yaml"]


@given(STREAMS)
@settings(deadline=None, max_examples=50)
def test_all_settings_are_restored(tmp_path_factory: pytest.TempPathFactory, data: dict[str, object]) -> None:
    stream = StreamSettings.model_validate({**data, "detect": "test://", "view": None, "degrade_detect": None, "hook": None})
    files = StreamFiles(tmp_path_factory.mktemp("state"), SERVICE)
    files.write("a", stream)
    assert files.read() == {"a": stream}


def test_files_are_readable_by_the_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files = StreamFiles(tmp_path, SERVICE)
        files.write("front", FRONT)
        files.write("front", FRONT)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "streams" / "front.yaml").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "streams").stat().st_mode) == 0o700


BROKEN = {
    "empty": "",
    "half": "detect: 'rtsp://u:Geheim@h",
    "list": "- Geheim",
    "hook": "detect: test://\nhook: os:system",
    "file": "detect: /etc/Geheim",
    "wrong": "detect: test://\nfps: -1",
    "reference": "detect: rtsp://u:${Geheim}@h/",
    "network": "detect: rtsp://u:Geheim@198.51.100.1/",
    "front door": "detect: test://",
}


def test_a_damaged_file_is_reported_and_not_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = StreamFiles(tmp_path, ServiceSettings(allow_networks=("192.0.2.0/24",)))
    files.write("front", FRONT)
    folder = tmp_path / "streams"
    for name, text in BROKEN.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "bytes.yaml").write_bytes(b"\xff")
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    (folder / "notes.txt").write_text("not ours")
    there = set(os.listdir(folder))
    with caplog.at_level(logging.WARNING, "vision_infer.service"):
        assert files.read() == {"front": FRONT}
    assert set(os.listdir(folder)) == there
    assert len(files.problems) == len(BROKEN) + 3
    for name in (*BROKEN, "bytes", "folder", "pipe"):
        assert any(name in problem for problem in files.problems)
    assert len(caplog.records) == len(files.problems)
    assert not any("Geheim" in problem.replace("/etc/Geheim", "") for problem in files.problems)
    assert any("wrong.yaml: fps: must be greater than 0, got -1" in problem for problem in files.problems)


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, SERVICE)
    files.write("front", FRONT)
    left = tmp_path / "streams" / ".front.yaml.partial"
    left.write_text("det")
    assert files.read() == {"front": FRONT}
    assert not left.exists()
    left.write_text("det")
    files.write("front", YARD)
    assert files.read() == {"front": YARD}


@pytest.mark.parametrize("step", ["fsync", "replace", "open"])
def test_a_failure_at_any_step_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    files = StreamFiles(tmp_path, SERVICE)
    files.write("front", FRONT)

    def broken(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, broken)
        with pytest.raises(OutputError, match=r"front\.yaml: the stream cannot be stored: Input/output error"):
            files.write("front", YARD)
    assert files.read() == {"front": FRONT}
    assert os.listdir(tmp_path / "streams") == ["front.yaml"]


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(b"x" * 4096)


def test_a_full_disk_keeps_the_old_file() -> None:
    with small_disk(128 * 1024) as disk:
        files = StreamFiles(disk, SERVICE)
        files.write("front", FRONT)
        fill(disk / "ballast")
        with pytest.raises(OutputError, match="No space left on device"):
            files.write("front", YARD)
        with pytest.raises(OutputError, match="No space left on device"):
            files.write("yard", YARD)
        assert files.read() == {"front": FRONT}
        assert files.problems == ()
        (disk / "ballast").unlink()
        files.write("yard", YARD)
        assert list(files.read()) == ["front", "yard"]


def test_a_folder_that_cannot_be_created_or_read(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    files = StreamFiles(tmp_path / "state", SERVICE)
    with pytest.raises(OutputError, match="the stream cannot be stored"):
        files.write("front", FRONT)
    assert files.read() == {}
    assert "cannot be read" in files.problems[0]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\n", "a b", "x" * 65, "a\0"])
def test_an_invalid_name_is_rejected(tmp_path: Path, name: str) -> None:
    files = StreamFiles(tmp_path, SERVICE)
    with pytest.raises(UsageError, match="is not a valid stream name"):
        files.write(name, YARD)
    with pytest.raises(UsageError, match="is not a valid stream name"):
        files.remove(name)
    assert list(tmp_path.iterdir()) == []


def test_folder_of_stored_streams(tmp_path: Path) -> None:
    assert state_folder(Path("here"), {"VISION_INFER_HOME": "/there"}) == Path("here")
    assert state_folder(None, {"VISION_INFER_HOME": "/there"}) == Path("/there/serve")
    assert state_folder(None, {}) == Path("~/.local/share/vision-infer/serve").expanduser()
