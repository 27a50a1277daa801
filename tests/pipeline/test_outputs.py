"""The meaning of ``--out``, and outputs that are refused before any work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from vision_infer.core.errors import OutputError, UsageError
from vision_infer.pipeline.runs.outputs import OutputOptions, OutputPlan, open_sink, plan_outputs
from vision_infer.pipeline.stream_record import StreamRecord, progress_of
from vision_infer.sink.files.jsonl import JsonlSink
from vision_infer.sink.formats import FORMATS
from vision_infer.sink.sink import OutputSpec
from vision_infer.stream.source import SourceSpec, StreamInfo

CLIP = SourceSpec("clip", "video", ("/videos/clip.mp4",))
OTHER = SourceSpec("other", "video", ("/videos/other.avi",))
PHOTO = SourceSpec("photo", "images", ("/photos/photo.png",))
PHOTOS = SourceSpec("photos", "images", ("/photos/a.jpg", "/photos/b.png"), folder=True)


def plan(outs: list[str | Path], *sources: SourceSpec, overwrite: bool = False, **options: Any) -> OutputPlan:
    return plan_outputs([str(out) for out in outs], sources or (CLIP,), overwrite, OutputOptions(**options))


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
    assert kinds(made.by_stream["photo"], folder) == [("jsonl", "photo.jsonl"), ("images", "photo.jpg")]
    assert kinds(made.by_stream["photos"], folder) == [("jsonl", "photos.jsonl"), ("images", "photos")]
    assert all(spec.overwrite for specs in made.by_stream.values() for spec in specs)
    assert there or not folder.exists()  # planning creates nothing


def test_one_video(tmp_path: Path) -> None:
    for name in ("out.mp4", "OUT.MP4"):
        assert plan([tmp_path / name]).by_stream["clip"] == (OutputSpec("video", str(tmp_path / name)),)


def test_a_folder_with_the_name_of_a_file_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    made = plan([tmp_path / "x.jsonl"])
    assert made.shared == ()
    assert kinds(made.by_stream["clip"], tmp_path / "x.jsonl") == [("jsonl", "clip.jsonl"), ("video", "clip.mp4")]


@pytest.mark.parametrize(
    ("outs", "sources", "words"),
    [
        (["out.mp4"], (CLIP, OTHER), "one video cannot hold 2 sources"),
        (["out.mp4"], (PHOTO,), "no frame rate"),
        (["out.txt"], (CLIP, OTHER), "one MOT file cannot hold 2 sources"),
        (["out.avi"], (CLIP,), "unknown format"),
        (["out"], (CLIP,), "unknown format"),
        ([""], (CLIP,), "unknown format"),
        (["-", "-"], (CLIP,), "twice"),
        (["a.jsonl", "a.jsonl"], (CLIP,), "twice"),
        (["a.jsonl", "./a.jsonl"], (CLIP,), "twice"),
        (["new/", "new/clip.mp4"], (CLIP,), "twice"),
        (["/videos/clip.mp4"], (CLIP,), "is a source of this run"),
        (["/videos/"], (CLIP,), "is a source of this run"),
        (["/"], (PHOTOS,), "are read from there"),
    ],
)
def test_conflicting_outputs_are_refused(
    outs: list[str | Path], sources: tuple[SourceSpec, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=words) as caught:
            plan(outs, *sources, overwrite=overwrite)
        assert caught.value.hint
        assert "\n" not in str(caught.value)


def test_a_link_to_a_source_is_never_overwritten(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.touch()
    (tmp_path / "link.mp4").symlink_to(clip)
    with pytest.raises(UsageError, match="is a source"):
        plan([tmp_path / "link.mp4"], SourceSpec("clip", "video", (str(clip),)), overwrite=True)


def test_input_images_are_never_replaced(tmp_path: Path) -> None:
    """``run photos --out .`` would write photos/a.jpg over photos/a.jpg."""
    photos = tmp_path / "photos"
    photos.mkdir()
    source = SourceSpec("photos", "images", (str(photos / "a.jpg"),), folder=True)
    for out in (f"{tmp_path}/", f"{tmp_path}/photos/../"):
        with pytest.raises(UsageError, match="are read from there"):
            plan([out], source, overwrite=True)
    assert plan([f"{photos}/"], source).by_stream["photos"][1].path == str(photos / "photos")


@pytest.mark.parametrize("name", ["rows.jsonl", "clip.mp4"])
def test_existing_files_are_refused_without_overwrite(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match="exists already"):
        plan([tmp_path / name])
    assert plan([tmp_path / name], overwrite=True).paths() == [str(tmp_path / name)]
    if name == "clip.mp4":
        with pytest.raises(OutputError, match="exists already"):
            plan([f"{tmp_path}/"])


def test_unwritable_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "rows.jsonl", f"{tmp_path}/file/deep/"):
        with pytest.raises(OutputError, match="not a folder"):
            plan([out])


def test_a_sink_of_all_streams_is_opened_without_a_source(tmp_path: Path) -> None:
    sink = open_sink(OutputSpec("jsonl", str(tmp_path / "rows.jsonl")), None)
    assert isinstance(sink, JsonlSink)
    sink.close(True)


def test_one_file_takes_the_rows_of_all(tmp_path: Path) -> None:
    names = ["a.jsonl", "a.csv", "a.parquet", "A.JSON"]
    made = plan([tmp_path / name for name in names], CLIP, OTHER, PHOTOS)
    assert kinds(made.shared, tmp_path) == [("jsonl", "a.jsonl"), ("csv", "a.csv"), ("parquet", "a.parquet"), ("coco", "A.JSON")]
    assert not any(made.by_stream.values())
    assert [Path(path).name for path in made.paths()] == names


def test_tracks_of_one_source(tmp_path: Path) -> None:
    for source in (CLIP, PHOTOS):
        made = plan([tmp_path / "tracks.txt"], source)
        assert made.by_stream[source.name] == (OutputSpec("mot", str(tmp_path / "tracks.txt")),)
    with pytest.raises(UsageError) as caught:
        plan([tmp_path / "tracks.txt"], CLIP, OTHER)
    assert caught.value.hint == "Write --out FOLDER/ --formats txt for one each."


def test_a_folder_gets_the_given_formats(tmp_path: Path) -> None:
    made = plan([f"{tmp_path}/"], CLIP, PHOTO, PHOTOS, formats=tuple(str(entry.suffix) for entry in FORMATS if entry.suffix))
    rows = [("jsonl", "jsonl"), ("csv", "csv"), ("parquet", "parquet"), ("coco", "json"), ("mot", "txt")]
    for name, own in (
        ("clip", [("video", "clip.mp4"), ("cvat-video", "clip.xml")]),
        ("photo", [("images", "photo.jpg")]),
        ("photos", [("images", "photos")]),
    ):
        assert kinds(made.by_stream[name], tmp_path) == [*[(kind, f"{name}.{suffix}") for kind, suffix in rows], *own]
    datasets = ["yolo", "coco", "voc", "cvat", "label-studio", "fiftyone", "datumaro"]  # one for all sources
    assert kinds(made.shared, tmp_path) == [(f"dataset-{name}", name) for name in datasets]
    only = plan([f"{tmp_path}/"], CLIP, formats=(".CSV", "csv"))
    assert kinds(only.by_stream["clip"], tmp_path) == [("csv", "clip.csv")]


def test_invalid_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--formats avi: unknown format") as caught:
        plan([f"{tmp_path}/"], formats=("jsonl", "avi"))
    assert "jsonl, csv, parquet, json, txt, mp4, jpg" in caught.value.hint
    with pytest.raises(UsageError, match="gives photo nothing"):
        plan([f"{tmp_path}/"], CLIP, PHOTO, formats=("mp4",))
    with pytest.raises(UsageError, match="no --out is a folder"):
        plan([tmp_path / "a.csv"], formats=("csv",))


def test_options_reach_their_outputs(tmp_path: Path) -> None:
    made = plan(
        [f"{tmp_path}/", tmp_path / "all.jsonl", "-"],
        preview_fps=5.0,
        preview_height=120,
        rotate_bytes=1000,
        crops=tmp_path / "crops",
    )
    rows, video, crops = made.by_stream["clip"]
    assert (rows.rotate_bytes, rows.fps, rows.height) == (1000, None, None)
    assert (video.kind, video.rotate_bytes, video.fps, video.height) == ("video", None, 5.0, 120)
    assert crops == OutputSpec("crops", str(tmp_path / "crops"))
    assert [one.rotate_bytes for one in made.shared] == [1000, None]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preview_fps": 5.0}, "--preview-fps: no annotated video"),
        ({"preview_height": 100}, "--preview-size: no annotated video"),
        ({"labels": "none"}, "--draw-labels: no annotated video or image"),
    ],
)
def test_options_without_effect_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan([tmp_path / "a.jsonl"], **options)
    for outs in ([], [tmp_path / "a.csv"], ["-"]):
        with pytest.raises(UsageError, match="--rotate-mb: no JSONL file"):
            plan(outs, rotate_bytes=1000)  # type: ignore[arg-type]


def test_numbered_images(tmp_path: Path) -> None:
    def numbered(*sources: SourceSpec) -> bool:
        return plan([tmp_path / "found.json"], *sources).shared[0].numbered

    assert numbered(SourceSpec("val", "images", ("/val/000139.jpg", "/val/7.png"), folder=True))
    assert numbered(SourceSpec("139", "images", ("/val/139.jpg",)), SourceSpec("7", "images", ("/val/7.jpg",)))
    assert not numbered(SourceSpec("val", "images", ("/val/07.jpg", "/val/7.png"), folder=True))  # one number, two images
    assert not numbered(SourceSpec("val", "images", ("/val/139.jpg", "/val/a.png"), folder=True))
    assert not numbered(SourceSpec("139", "images", ("/val/139.jpg",)), CLIP)
    assert not numbered(SourceSpec("1", "images", ("/a/1.jpg",)), SourceSpec("1-2", "images", ("/b/1.jpg",)))


def test_crops(tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    (folder / "other").mkdir(parents=True)
    (folder / "other" / "a.jpg").touch()
    assert plan([], crops=folder).by_stream["clip"] == (OutputSpec("crops", str(folder)),)
    with pytest.raises(OutputError, match="other: exists already"):
        plan([], CLIP, OTHER, crops=folder)
    assert plan([], CLIP, OTHER, crops=folder, overwrite=True).shared == ()
    inside = SourceSpec("clip", "images", (str(folder / "clip" / "a.jpg"),), folder=True)
    with pytest.raises(UsageError, match="are read from"):
        plan([], inside, crops=folder, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not a folder"):
        plan([], crops=tmp_path / "file")


def test_an_existing_second_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a-2.jsonl").touch()
    with pytest.raises(OutputError, match=r"a-2\.jsonl: exists already"):
        plan([tmp_path / "a.jsonl"], rotate_bytes=1000)
    plan([tmp_path / "a.jsonl"])
    plan([tmp_path / "a.jsonl"], rotate_bytes=1000, overwrite=True)


def test_parquet_without_pyarrow_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.files.parquet.find_spec", lambda name: None)
    with pytest.raises(OutputError, match="pyarrow") as caught:
        plan([tmp_path / "a.parquet"])
    assert ".[parquet]" in caught.value.hint


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "coco", "mot", "crops", "images"])
def test_every_kind_can_be_opened(tmp_path: Path, kind: str) -> None:
    sink = open_sink(OutputSpec(kind, str(tmp_path / "out")), None)
    assert sink.outputs in ([], ())
    sink.close(False)
    assert sink.outputs in ([], ())
    assert not list(tmp_path.iterdir())


def test_progress() -> None:
    def record(decoded: int, frames: int | None) -> StreamRecord:
        info = StreamInfo(None, frames, None, None, None, "h264", False)
        return StreamRecord("clip", "clip.mp4", info=info, decoded=decoded)

    waiting = StreamRecord("later", "later.mp4")
    assert progress_of([]) is None
    assert progress_of([waiting]) is None
    assert progress_of([record(5, None)]) is None
    assert progress_of([record(25, 100)]) == 0.25
    assert progress_of([record(50, 100), waiting]) == 0.25  # assumed to be as long as the others
    assert progress_of([record(100, 100), record(0, 300)]) == 0.25
    assert progress_of([record(120, 100)]) == 1.0  # a container with too small a frame count


def test_a_part_never_has_the_name_of_another_output(tmp_path: Path) -> None:
    """Of two sources of one name the second is clip-2, and so would be the second part of the first."""
    second = SourceSpec("clip-2", "video", ("/other/clip.mp4",))
    with pytest.raises(UsageError, match=r"--rotate-mb: a part of .*clip\.jsonl would be called clip-2\.jsonl"):
        plan([f"{tmp_path}/"], CLIP, second, rotate_bytes=1000, overwrite=True)
    plan([f"{tmp_path}/"], CLIP, second)
    plan([f"{tmp_path}/"], CLIP, OTHER, rotate_bytes=1000)
    with pytest.raises(UsageError, match=r"would be called a-7\.jsonl"):
        plan([tmp_path / "a.jsonl", tmp_path / "a-7.jsonl"], rotate_bytes=1000)
