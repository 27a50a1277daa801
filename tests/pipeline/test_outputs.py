"""What ``--out`` means, and what is refused before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vision_infer.core.errors import OutputError, UsageError
from vision_infer.pipeline.outputs import OutputPlan, open_sink, plan_outputs
from vision_infer.sink.jsonl import JsonlSink
from vision_infer.sink.sink import OutputSpec
from vision_infer.stream.source import SourceSpec

CLIP = SourceSpec("clip", "video", ("/videos/clip.mp4",))
OTHER = SourceSpec("other", "video", ("/videos/other.avi",))
PHOTO = SourceSpec("photo", "images", ("/photos/photo.png",))
PHOTOS = SourceSpec("photos", "images", ("/photos/a.jpg", "/photos/b.png"), folder=True)


def plan(outs: list[str | Path], *sources: SourceSpec, overwrite: bool = False) -> OutputPlan:
    return plan_outputs([str(out) for out in outs], sources or (CLIP,), overwrite)


def kinds(specs: tuple[OutputSpec, ...], folder: Path) -> list[tuple[str, str]]:
    return [(spec.kind, os.path.relpath(spec.path, folder)) for spec in specs]


def test_no_output() -> None:
    made = plan([], CLIP, OTHER)
    assert made.shared == ()
    assert made.by_stream == {"clip": (), "other": ()}
    assert made.paths() == []


def test_rows_of_all_streams(tmp_path: Path) -> None:
    made = plan([tmp_path / "rows.jsonl", "-"], CLIP, PHOTOS)
    assert made.shared == (OutputSpec("jsonl", str(tmp_path / "rows.jsonl")), OutputSpec("jsonl", "-"))
    assert made.by_stream == {"clip": (), "photos": ()}
    assert made.paths() == [str(tmp_path / "rows.jsonl")]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_gets_a_set_for_each_stream(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "out"
    if there:
        folder.mkdir()
    made = plan([str(folder) if there else f"{folder}/"], CLIP, PHOTO, PHOTOS, overwrite=True)
    assert kinds(made.by_stream["clip"], folder) == [("jsonl", "clip.jsonl"), ("video", "clip.mp4")]
    assert kinds(made.by_stream["photo"], folder) == [("jsonl", "photo.jsonl"), ("pictures", "photo.jpg")]
    assert kinds(made.by_stream["photos"], folder) == [("jsonl", "photos.jsonl"), ("pictures", "photos")]
    assert all(spec.overwrite for specs in made.by_stream.values() for spec in specs)
    assert there or not folder.exists()  # planning makes nothing


def test_one_video(tmp_path: Path) -> None:
    for name in ("out.mp4", "OUT.MP4"):
        assert plan([tmp_path / name]).by_stream["clip"] == (OutputSpec("video", str(tmp_path / name)),)


def test_a_folder_called_like_a_file_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    made = plan([tmp_path / "x.jsonl"])
    assert made.shared == ()
    assert kinds(made.by_stream["clip"], tmp_path / "x.jsonl") == [("jsonl", "clip.jsonl"), ("video", "clip.mp4")]


@pytest.mark.parametrize(
    ("outs", "sources", "words"),
    [
        (["out.mp4"], (CLIP, OTHER), "one video cannot hold 2 sources"),
        (["out.mp4"], (PHOTO,), "no frame rate"),
        (["out.avi"], (CLIP,), "no such kind"),
        (["out"], (CLIP,), "no such kind"),
        ([""], (CLIP,), "no such kind"),
        (["-", "-"], (CLIP,), "twice"),
        (["a.jsonl", "a.jsonl"], (CLIP,), "twice"),
        (["a.jsonl", "./a.jsonl"], (CLIP,), "twice"),
        (["new/", "new/clip.mp4"], (CLIP,), "twice"),
        (["/videos/clip.mp4"], (CLIP,), "is a source of this run"),
        (["/videos/"], (CLIP,), "is a source of this run"),
        (["/"], (PHOTOS,), "are read from there"),
    ],
)
def test_what_does_not_fit_together(
    outs: list[str | Path], sources: tuple[SourceSpec, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=words) as caught:
            plan(outs, *sources, overwrite=overwrite)
        assert caught.value.hint
        assert "\n" not in str(caught.value)


def test_a_source_behind_a_link_is_a_source(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.touch()
    (tmp_path / "link.mp4").symlink_to(clip)
    with pytest.raises(UsageError, match="is a source"):
        plan([tmp_path / "link.mp4"], SourceSpec("clip", "video", (str(clip),)), overwrite=True)


def test_the_pictures_that_are_read_are_never_replaced(tmp_path: Path) -> None:
    """``run photos --out .`` would write photos/a.jpg over photos/a.jpg."""
    photos = tmp_path / "photos"
    photos.mkdir()
    source = SourceSpec("photos", "images", (str(photos / "a.jpg"),), folder=True)
    for out in (f"{tmp_path}/", f"{tmp_path}/photos/../"):
        with pytest.raises(UsageError, match="are read from there"):
            plan([out], source, overwrite=True)
    assert plan([f"{photos}/"], source).by_stream["photos"][1].path == str(photos / "photos")


@pytest.mark.parametrize("name", ["rows.jsonl", "clip.mp4"])
def test_what_exists_is_refused_without_overwrite(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match="exists already"):
        plan([tmp_path / name])
    assert plan([tmp_path / name], overwrite=True).paths() == [str(tmp_path / name)]
    if name == "clip.mp4":
        with pytest.raises(OutputError, match="exists already"):
            plan([f"{tmp_path}/"])


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "rows.jsonl", f"{tmp_path}/file/deep/"):
        with pytest.raises(OutputError, match="no folder"):
            plan([out])


def test_a_sink_of_all_streams_is_opened_without_a_source(tmp_path: Path) -> None:
    sink = open_sink(OutputSpec("jsonl", str(tmp_path / "rows.jsonl")), None)
    assert isinstance(sink, JsonlSink)
    sink.close(True)
