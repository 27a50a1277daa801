"""Watching the configuration file while the service runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from tests.support.hand_clock import HandClock
from vision_infer.config.serve import ServeSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.service.operations.file_watch import QUIET_NS, FileWatch, restart_fields
from vision_infer.service.service import Service
from vision_infer.service.serving import Start, _reload
from vision_infer.service.views import StreamView


class Polls:
    """A watch that is polled every second."""

    def __init__(self, path: Path) -> None:
        self.clock = HandClock()
        self.watch = FileWatch(path, self.clock)

    def confirmed(self) -> bool:
        return self.watch.confirmed

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
    assert not polls.watch.changed()
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


OLD, NEW = "streams: {a: {url: 'test://'}}\n", "streams:\n  a: {url: 'test://'}\n  b: {url: 'test://'}\n"
Step = tuple[float, Callable[[Path], object]]


def part(text: str, mode: str = "w") -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with open(path, mode) as file:
            file.write(text)

    return write


def renamed(path: Path) -> None:
    new = path.with_name(f".{path.name}.swp")
    new.write_text(NEW)
    os.replace(new, path)


def backed_up(path: Path) -> None:
    os.rename(path, path.with_name(f"{path.name}~"))


# Each step: the seconds since the one before, and what the program does then.
SAVES: dict[str, list[Step]] = {
    "truncate and write at once (nano, vim with backupcopy=yes, VS Code)": [(0, part("")), (0, part(NEW))],
    "truncate, and write in slow parts (a shell, a network file system)": [
        (0, part("")),
        (0.8, part(NEW[:9], "a")),
        (0.8, part(NEW[9:35], "a")),
        (0.8, part(NEW[35:], "a")),
    ],
    "rename a new file over the old one (sed -i, gedit, Ansible)": [(0, renamed)],
    "rename the old file to a backup, and write a new one (vim, Emacs)": [(0, backed_up), (0.3, part("")), (0.3, part(NEW))],
    "delete and write (rsync --inplace --delay-updates, cp after rm)": [(0, os.remove), (0.9, part(NEW[:30])), (0.9, part(NEW))],
    "write twice (format on save)": [(0, part(NEW.replace("b", "c"))), (0.5, part(NEW))],
}


@pytest.mark.parametrize("save", SAVES)
def test_only_the_whole_file_is_read_however_it_is_saved(tmp_path: Path, save: str) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(OLD)
    clock = HandClock()
    watch = FileWatch(path, clock)
    read: list[str] = []

    def poll(seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            clock.move(0.1)
            if watch.changed():
                read.append(path.read_text())

    poll(2)
    for pause, step in SAVES[save]:
        poll(pause)
        step(path)
    poll(5)
    assert read == [NEW]


def test_a_change_can_be_reported_again_if_the_file_stays_the_same(path: Path) -> None:
    polls = Polls(path)
    path.write_text("")
    assert polls(2) == [False, True]
    assert not polls.confirmed()
    polls.watch.report_again()
    assert polls(6) == [False] * 4 + [True, False]
    assert polls.confirmed()
    path.write_text("model: bb")
    assert polls(2) == [False, True]
    assert not polls.confirmed()


def test_a_file_that_changes_again_must_be_confirmed_again(path: Path) -> None:
    polls = Polls(path)
    path.write_text("")
    assert polls(2) == [False, True]
    polls.watch.report_again()
    assert polls(3) == [False] * 3
    path.write_text("model: bb")
    assert polls(5) == [False, True, False, False, False]
    assert not polls.confirmed()


class Reloaded:
    """A service whose streams are those of the last settings that it received."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings

    def streams(self) -> list[StreamView]:
        return [StreamView(name, "file", stream, None) for name, stream in self.settings.streams.items()]

    def reload(self, settings: ServeSettings) -> None:
        self.settings = settings


def test_a_file_that_removes_most_streams_is_applied_after_a_second_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def load() -> ServeSettings:
        return load_settings(path, [], {}, {})

    def streams(names: str) -> str:
        return "streams:\n" + "".join(f"  {name}: {{url: 'test://'}}\n" for name in names)

    path.write_text(streams("abcd"))
    polls = Polls(path)
    service = Reloaded(load())

    def seconds(count: int) -> list[str]:
        """Return the names of the streams after each second."""
        seen = []
        for _ in range(count):
            if polls() == [True]:
                _reload(cast(Service, service), Start(service.settings, polls.watch, load, {}), polls.watch)
            seen.append("".join(sorted(service.settings.streams)))
        return seen

    path.write_text("")
    assert seconds(4) == ["abcd"] * 4, "empty, for a disk was full"
    path.write_text(streams("abcd") + "# a comment\n")
    assert seconds(10) == ["abcd"] * 10
    assert caplog.text.count("the configuration file removes most streams or sinks") == 1
    path.write_text(streams("ab"))
    assert seconds(2) == ["abcd", "ab"], "half of them: at once"
    path.write_text(streams("cdef"))
    assert seconds(8) == ["ab"] * 6 + ["cdef"] * 2
    path.write_text("streams: {}\n")
    assert seconds(8) == ["cdef"] * 6 + [""] * 2, "wanted"


def test_a_file_that_loses_its_sinks_is_applied_after_a_second_read(path: Path) -> None:
    def load() -> ServeSettings:
        return load_settings(path, [], {}, {})

    streams = "streams: {a: {url: 'test://'}}\n"
    path.write_text(f"{streams}sinks: {{mqtt: {{house: {{url: 'mqtt://broker'}}}}}}\n")
    polls = Polls(path)
    service = Reloaded(load())
    path.write_text(streams)
    for second, kept in enumerate([True] * 6 + [False]):
        if polls() == [True]:
            _reload(cast(Service, service), Start(service.settings, polls.watch, load, {}), polls.watch)
        assert bool(service.settings.sinks.mqtt) is kept, second


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
