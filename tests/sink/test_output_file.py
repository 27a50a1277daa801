"""Output files get their names when they are whole, and never replace or damage files of others."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.sink.results import frame, result_of
from tests.support.disks import ordinary_user
from vision_infer.core.errors import OutputError
from vision_infer.sink.files.jsonl import JsonlSink
from vision_infer.sink.files.output_file import OutputFile, partial_path
from vision_infer.sink.sink import OutputSpec


def write(file: OutputFile, data: bytes) -> None:
    file.raw.write(data)


def test_a_file_that_was_created_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = OutputFile(str(path), overwrite=False)
    write(file, b"ours")
    path.write_text("theirs")
    with pytest.raises(OutputError, match="another program created this file") as caught:
        file.commit()
    assert path.read_text() == "theirs"
    assert str(file.partial) in caught.value.hint
    assert file.partial.read_text() == "ours"


def test_a_file_that_was_created_meanwhile_is_replaced_with_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = OutputFile(str(path), overwrite=True)
    write(file, b"ours")
    path.write_text("theirs")
    file.commit()
    assert path.read_text() == "ours"


@pytest.mark.parametrize("there", [False, True])
def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "rows.jsonl"
    file = OutputFile(str(path), overwrite=False)
    write(file, b"ours")
    if not there:
        file.commit()
        assert path.read_text() == "ours"
        assert not file.partial.exists()
        return
    path.write_text("theirs")
    with pytest.raises(OutputError, match="created this file"):
        file.commit()
    assert path.read_text() == "theirs"


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_the_temporary_file_is_removed_or_replaced(tmp_path: Path, how: str) -> None:
    path = tmp_path / "rows.jsonl"
    sink = JsonlSink(OutputSpec("jsonl", str(path)))
    sink.write(frame(), result_of(frame()))
    partial = partial_path(path)
    partial.unlink()
    if how == "replaced":
        partial.write_text("theirs")
    with pytest.raises(OutputError, match="removed or replaced during the run"):
        sink.close(True)
    assert not path.exists()
    assert partial.exists() == (how == "replaced")
    assert sink.outputs == []


def test_two_runs_with_the_same_output_write_different_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = JsonlSink(OutputSpec("jsonl", str(path), overwrite=True))
    first.write(frame(1), result_of(frame(1)))
    second = JsonlSink(OutputSpec("jsonl", str(path), overwrite=True))
    second.write(frame(2), result_of(frame(2)))
    with pytest.raises(OutputError, match="another run"):
        first.close(True)
    second.close(True)
    assert path.read_text().count("\n") == 1
    assert '"frame": 2' in path.read_text()


def test_the_temporary_file_of_a_killed_run_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    partial_path(path).write_text("half a li")
    sink = JsonlSink(OutputSpec("jsonl", str(path)))
    sink.write(frame(), result_of(frame()))
    sink.close(True)
    assert path.read_text().startswith('{"stream"')
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_folder_that_becomes_read_only() -> None:
    with ordinary_user() as folder:
        sink = JsonlSink(OutputSpec("jsonl", str(folder / "rows.jsonl")))
        sink.write(frame(), result_of(frame()))
        folder.chmod(0o500)
        with pytest.raises(OutputError, match=r"(?i)cannot get its final name: permission denied") as caught:
            sink.close(True)
        partial = folder / ".rows.jsonl.partial"
        assert str(partial) in caught.value.hint
        assert partial.read_text().count("\n") == 1  # nothing is lost
        with pytest.raises(OutputError, match=r"(?i)not writable|permission denied"):
            JsonlSink(OutputSpec("jsonl", str(folder / "other.jsonl")))


def test_discarding_does_not_delete_the_file_of_another_run(tmp_path: Path) -> None:
    file = OutputFile(str(tmp_path / "rows.jsonl"), overwrite=False)
    file.partial.unlink()
    file.partial.write_text("theirs")
    file.discard()
    assert file.partial.read_text() == "theirs"
