"""Watching the configuration file while the service runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.hand_clock import HandClock
from vision_infer.config.serve import ServeSettings
from vision_infer.service.operations.file_watch import QUIET_NS, FileWatch, restart_fields


class Polls:
    """A watch that is polled every second."""

    def __init__(self, path: Path) -> None:
        self.clock = HandClock()
        self.watch = FileWatch(path, self.clock)

    def __call__(self, times: int = 1) -> list[bool]:
        changes: list[bool] = []
        for _ in range(times):
            self.clock.now += 1_000_000_000
            changes.append(self.watch.changed())
        return changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cameras.yaml"
    path.write_text("model: a")
    return path


def test_a_change_is_reported_once_when_the_file_is_stable(path: Path) -> None:
    polls = Polls(path)
    assert polls(3) == [False] * 3
    path.write_text("model: bb")
    assert polls(4) == [False, True, False, False]


def test_a_file_is_not_read_while_it_is_written(path: Path) -> None:
    polls = Polls(path)
    with open(path, "w") as file:
        for _ in range(5):
            file.write("# a line\n")
            file.flush()
            assert polls() == [False]
    assert polls(2) == [True, False]


def test_two_polls_at_the_same_time_do_not_count_as_stable(path: Path) -> None:
    polls = Polls(path)
    path.write_text("model: bb")
    assert polls() == [False]
    polls.clock.now += QUIET_NS - 1
    assert not polls.watch.changed()
    polls.clock.now += 1
    assert polls.watch.changed()


def test_a_file_replaced_by_an_editor_is_detected(path: Path) -> None:
    polls = Polls(path)
    status = path.stat()
    new = path.with_name(".swp")
    new.write_text("model: b")  # same length and modification time as before
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(new, path)
    assert polls(3) == [False, True, False]


def test_a_change_in_place_with_the_same_size_and_time_is_detected(path: Path) -> None:
    polls = Polls(path)
    status = path.stat()
    path.write_text("model: b")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert polls(3) == [False, True, False]


def test_a_file_that_is_briefly_missing_counts_as_unchanged(path: Path) -> None:
    polls = Polls(path)
    away = path.with_name("away")
    os.rename(path, away)
    assert polls(3) == [False] * 3
    path.write_text("model: bb")
    assert polls() == [False]
    path.unlink()
    assert polls() == [False]
    path.write_text("model: bbb")
    assert polls(3) == [False, True, False]


def test_a_missing_file_is_logged_once_per_absence(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    polls = Polls(path)
    path.unlink()
    polls()
    assert caplog.messages == [], "an editor may be replacing it"
    polls(5)
    warning = f"{path} is missing or cannot be read; the service continues with the last settings"
    assert caplog.messages == [warning]
    path.write_text("model: bb")
    assert polls(2) == [False, True]
    path.unlink()
    polls(5)
    assert caplog.messages == [warning] * 2


def test_switched_symbolic_links_are_detected_as_in_kubernetes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cameras.yaml").write_text("model: a")
    (tmp_path / "..data").symlink_to("one")
    path = tmp_path / "cameras.yaml"
    path.symlink_to("..data/cameras.yaml")
    polls = Polls(path)
    (tmp_path / "..new").symlink_to("two")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert polls(3) == [False, True, False]


def test_a_file_created_later_is_detected(tmp_path: Path) -> None:
    polls = Polls(tmp_path / "cameras.yaml")
    assert polls(2) == [False, False]
    (tmp_path / "cameras.yaml").write_text("")
    assert polls(3) == [False, True, False]


BEFORE = {
    "service": {"port": 1, "token": "12345678"},
    "streams": {"a": {"url": "test://"}, "b": {"url": "rtsp://h/b"}, "c": {"url": "test://"}},
}
AFTER = {
    "service": {"port": 2, "token": "123456789"},
    "model": "other",
    "results": {"keep": 1},
    "streams": {"d": {"url": "test://"}, "c": {"url": "test://"}, "b": {"url": "rtsp://h/c", "fps": 5}},
}


def test_changed_fields_that_require_a_restart() -> None:
    before, after = ServeSettings.model_validate(BEFORE), ServeSettings.model_validate(AFTER)
    assert restart_fields(before, after) == ["service.port", "service.token", "model", "results.keep"]
    assert restart_fields(before, ServeSettings.model_validate(BEFORE)) == []
