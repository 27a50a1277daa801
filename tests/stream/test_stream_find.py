"""From arguments to sources: unique names, folders, and missing files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.stream.find import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_sources


def test_a_mixed_folder(tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    names = ("b.MP4", "a.mkv", "z.jpg", "y.PNG", "notes.txt", ".hidden.mp4", ".hidden.jpg", "noending")
    for name in names:
        (folder / name).touch()
    (folder / "inner").mkdir()
    (folder / "inner" / "c.mp4").touch()
    (folder / "folder.mp4").mkdir()
    found = find_sources([str(folder)])
    assert found.errors == ()
    assert [(spec.name, spec.kind) for spec in found.specs] == [("a", "video"), ("b", "video"), ("holiday", "images")]
    assert [Path(path).name for path in found.specs[2].paths] == ["y.PNG", "z.jpg"]
    assert found.specs[2].folder
    assert not found.specs[0].folder


def test_every_known_suffix_is_found(tmp_path: Path) -> None:
    for suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        (tmp_path / f"x{suffix.upper()}").touch()
    found = find_sources([str(tmp_path)])
    assert sum(spec.kind == "video" for spec in found.specs) == len(VIDEO_SUFFIXES)
    assert [len(spec.paths) for spec in found.specs if spec.kind == "images"] == [len(IMAGE_SUFFIXES)]


def test_a_folder_named_with_a_dot(tmp_path: Path, monkeypatch: object) -> None:
    (tmp_path / "a.jpg").touch()
    (spec,) = find_sources([f"{tmp_path}/."]).specs
    assert spec.name == tmp_path.name


def test_missing_files_are_reported_by_open_source(tmp_path: Path) -> None:
    found = find_sources([str(tmp_path / "none.mp4"), str(tmp_path / "none.jpg"), str(tmp_path / "none")])
    assert [(spec.name, spec.kind) for spec in found.specs] == [("none", "video"), ("none-2", "images"), ("none-3", "video")]
    assert found.errors == ()


def test_a_name_that_is_too_long_is_reported_by_open_source() -> None:
    (spec,) = find_sources(["x" * 300 + ".mp4"]).specs
    assert spec.name == "x" * 300


def test_an_empty_folder_is_an_error_and_the_other_sources_are_found(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    found = find_sources([str(empty), "a.mp4"])
    assert [spec.name for spec in found.specs] == ["a"]
    (error,) = found.errors
    assert str(empty) in error.message
    assert error.hint


def test_the_name_of_a_url_contains_no_password() -> None:
    found = find_sources(["rtsp://user:secret@host", "rtsp://host/cam?token=hidden"])
    assert not [spec.name for spec in found.specs if "secret" in spec.name or "hidden" in spec.name]


@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "b", "b-2", "a-2-2"]), max_size=12))
def test_names_are_unique_and_the_first_source_keeps_its_name(stems: list[str]) -> None:
    found = find_sources([f"/none/{number}/{stem}.mp4" for number, stem in enumerate(stems)])
    names = [spec.name for spec in found.specs]
    assert len(set(names)) == len(stems)
    assert all(name.startswith(stem) for name, stem in zip(names, stems, strict=True))
    if stems:
        assert names[0] == stems[0]


@pytest.mark.parametrize(
    ("argument", "path", "name"),
    [
        ("rtsp://user:secret@10.0.0.1/front", "rtsp://user:secret@10.0.0.1/front", "front"),
        ("0", "/dev/video0", "video0"),
        ("/dev/video12", "/dev/video12", "video12"),
        ("test://?fps=5", "test://?fps=5", "test"),
        ("srt://10.0.0.1:9000", "srt://10.0.0.1:9000", "10.0.0.1"),
    ],
)
def test_cameras_are_live_sources(argument: str, path: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (spec,) = find_sources([argument]).specs
    assert (spec.kind, spec.paths, spec.name) == ("live", (path,), name)


def test_a_number_that_is_a_file_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").touch()
    (spec,) = find_sources(["0"]).specs
    assert (spec.kind, spec.paths) == ("video", ("0",))


def test_an_invalid_camera_url_is_an_error_without_its_password() -> None:
    (error,) = find_sources(["rtsp://user:sec@ret@:99999/x"]).errors
    assert "invalid host or port" in str(error)
    assert "sec" not in str(error)


def test_urls_of_files_can_be_live_sources() -> None:
    url = "http://10.0.0.1/video.mjpg"
    assert [find_sources([url], live=live).specs[0].kind for live in (False, True)] == ["video", "live"]
