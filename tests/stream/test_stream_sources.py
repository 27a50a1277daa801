"""Sources that can be named: patterns, folders and subfolders, lists, standard input, URLs, names of any bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.stream.find import FoundSources, find_sources
from vision_infer.stream.redact import printable
from vision_infer.stream.source import MAX_LIVE_PIXELS, ReadOptions


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def named(found: FoundSources) -> list[str]:
    return [spec.name for spec in found.specs]


def test_a_pattern_finds_videos_and_the_images_of_each_folder(tmp_path: Path) -> None:
    make(tmp_path, "cam1/a.mp4", "cam1/b.mkv", "cam2/c.mp4", "cam2/1.jpg", "cam2/2.jpg", "cam3/3.png", "cam1/notes.txt")
    found = find_sources([f"{tmp_path}/cam*/*"])
    assert found.errors == ()
    assert named(found) == ["a", "b", "c", "cam2", "cam3"]
    assert [len(spec.paths) for spec in found.specs] == [1, 1, 1, 2, 1]
    assert named(find_sources([f"{tmp_path}/cam?/*.mp4"])) == ["a", "c"]
    assert named(find_sources([f"{tmp_path}/**/[ab].*"])) == ["a", "b"]


def test_a_pattern_with_a_suffix_matches_files_of_any_kind(tmp_path: Path) -> None:
    make(tmp_path, "one.dav", "two.dav", "x.txt")
    assert named(find_sources([f"{tmp_path}/*.dav"])) == ["one", "two"]
    (error,) = find_sources([f"{tmp_path}/*"]).errors
    assert "no video or image matches" in error.message


def test_a_pattern_that_matches_folders_searches_them(tmp_path: Path) -> None:
    make(tmp_path, "cam1/a.mp4", "cam1/deep/b.mp4", "cam2/c.mp4")
    assert named(find_sources([f"{tmp_path}/cam*"])) == ["a", "c"]
    assert named(find_sources([f"{tmp_path}/cam*"], recursive=True)) == ["a", "b", "c"]
    assert named(find_sources([f"{tmp_path}/**"])) == ["a", "b", "c"]


def test_a_pattern_that_matches_nothing(tmp_path: Path) -> None:
    found = find_sources([f"{tmp_path}/*.mp4"])
    (error,) = found.errors
    assert found.specs == ()
    assert error.source == f"{tmp_path}/*.mp4"
    assert "no file matches" in error.message


def test_a_file_whose_name_looks_like_a_pattern_is_not_a_pattern(tmp_path: Path) -> None:
    make(tmp_path, "a[1].mp4", "a1.mp4", "@list", "http:")
    found = find_sources([f"{tmp_path}/a[1].mp4"])
    assert [spec.paths[0] for spec in found.specs] == [f"{tmp_path}/a[1].mp4"]


def test_folders_are_searched_recursively(tmp_path: Path) -> None:
    make(tmp_path, "z.mp4", "a/x.mp4", "a/b/1.jpg", "a/b/2.jpg", "a/.hidden/y.mp4", "c/x.mp4", "c/3.png")
    os.symlink(tmp_path, tmp_path / "a" / "circle")
    assert named(find_sources([str(tmp_path)])) == ["z"]
    found = find_sources([str(tmp_path)], recursive=True)
    assert named(found) == ["z", "x", "x-2", "b", "c"]
    assert [Path(path).name for path in found.specs[3].paths] == ["1.jpg", "2.jpg"]
    assert found.specs[3].folder


def test_an_unreadable_subfolder_is_reported_and_the_other_files_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a/x.mp4", "b/y.mp4")
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_sources([str(tmp_path)], recursive=True)
    assert named(found) == ["y"]
    assert [(error.source, "Permission denied" in error.message) for error in found.errors] == [(f"{tmp_path}/a", True)]


def test_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "two words.mp4", "b#c.mkv", "ümlaut.mp4", "images/1.jpg", "cams/a.mp4", "cams/b.mp4")
    lines = [
        "# the cameras of today",
        "",
        "two words.mp4  ",
        "\tb#c.mkv",
        "gone.mp4",
        "ümlaut.mp4",
        "images",
        "cams/*.mp4",
        "http://user:secret@host/clip.mp4?token=hidden",
        "nothing/*.mp4",
        "@other",
        "a\0b",
    ]
    Path("list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = find_sources(["@list.txt", "cams/a.mp4"])
    assert named(found) == ["two words", "b#c", "ümlaut", "images", "a", "b", "clip", "a-2"]
    assert [error.source for error in found.errors] == ["list.txt:5", "list.txt:10", "list.txt:11", "list.txt:12"]
    assert "list.txt:5: gone.mp4: no such file" in found.errors[0].message


def test_a_missing_empty_or_invalid_list(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n\n")
    found = find_sources([f"@{tmp_path}/none", f"@{tmp_path}/empty", f"@{tmp_path}", "@"])
    assert found.specs == ()
    assert len(found.errors) == 4
    assert "No such file" in found.errors[0].message
    assert "the list is empty" in found.errors[1].message


def test_a_file_that_begins_with_an_at_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "@home.mp4")
    assert named(find_sources(["@home.mp4"])) == ["@home"]


def test_standard_input_is_read_once() -> None:
    found = find_sources(["-", "a.mp4", "-"])
    assert named(found) == ["stdin", "a"]
    assert found.specs[0].paths == ("-",)
    (error,) = found.errors
    assert "twice" in error.message


def test_urls_are_named_after_their_last_part_and_never_after_a_secret() -> None:
    urls = [
        "http://user:secret@host/a/front%20door.mp4?token=hidden",
        "https://host/x.mp4#secret",
        "http://host.example",
        "http://[::1/broken",
        "http://host/?key=hidden",
        "HTTP://host/Y.MP4",
    ]
    found = find_sources(urls)
    assert named(found) == ["front door", "x", "host.example", "stream", "host", "Y"]
    assert [spec.paths[0] for spec in found.specs] == urls
    assert {spec.kind for spec in found.specs} == {"video"}


def test_names_that_are_not_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"caf\xe9.mp4", b"line\nend.mp4", "ok ü.mp4".encode(), b"\x1b[31mred.mp4", b"caf\xe8.mp4"):
        with open(folder + b"/" + name, "wb"):
            pass
    found = find_sources([str(tmp_path)])
    assert sorted(named(found)) == sorted(["caf\\xe9", "line\\x0aend", "ok ü", "\\x1b[31mred", "caf\\xe8"])
    assert all(os.path.exists(spec.paths[0]) for spec in found.specs)
    for shown in named(found):
        shown.encode()


@given(st.binary(min_size=1, max_size=30))
def test_each_name_can_be_displayed(name: bytes) -> None:
    shown = printable(os.fsdecode(name))
    shown.encode()
    assert not {"\x1b", "\0", "\r"} & set(shown)
    assert len(shown.splitlines()) == 1


def test_read_options_apply_to_each_source(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4", "1.jpg")
    read = ReadOptions(track_index=2, start_s=1.5, end_s=4.0, keyframes_only=True, max_pixels=9)
    assert {spec.read for spec in find_sources([str(tmp_path), "-"], read=read).specs} == {read}


@pytest.mark.parametrize(("max_pixels", "expected"), [(100_000_000, MAX_LIVE_PIXELS), (1000, 1000)])
def test_the_frames_of_cameras_are_limited_to_8k(max_pixels: int, expected: int) -> None:
    read = ReadOptions(max_pixels=max_pixels)
    found = find_sources(["rtsp://10.0.0.5/x", "/dev/video0", "test://", "a.mp4"], read=read, live=True).specs
    assert [spec.read.max_pixels for spec in found] == [expected] * 4
    (file,) = find_sources(["a.mp4"], read=read).specs
    assert file.read.max_pixels == max_pixels


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_any_name_works_in_the_c_locale(tmp_path: Path, environment: dict[str, str]) -> None:
    """A file is found, opened and displayed even if Python's file system encoding is ASCII."""
    path = os.fsencode(tmp_path) + b"/caf\xe9 \xc3\xbc.mp4"
    with open(path, "wb"):
        pass
    code = (
        "import sys; from vision_infer.stream.find import find_sources, open_source\n"
        "(spec,) = find_sources([sys.argv[1]]).specs\n"
        "try: open_source(spec)\n"
        "except Exception as error: print(ascii(spec.name), ascii(str(error)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    assert "the file is empty" in done.stdout
    assert "udc" not in done.stdout
