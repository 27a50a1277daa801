"""The plan of an archive, and a reader without Ray: the rows of one machine, resume, broken files, object storage."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from tests.support.archive import make_archive, row_bytes, tables, without_times
from tests.support.media import B_FRAMES, H264, NTSC, REFRESH, bikes, changed, clip
from tests.support.s3_server import s3_server
from vision_infer.cluster.archive_files import ArchiveFile, OutputFolder, find_files
from vision_infer.cluster.archive_plan import STATE, ArchivePlan, plan_archive
from vision_infer.cluster.archive_reader import ArchiveReader, FileOutcome
from vision_infer.cluster.archive_segments import SEGMENT_S, output_of
from vision_infer.cluster.archive_work import ArchiveWork
from vision_infer.config.run import RunSettings, run_settings
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.pipeline.runs.offline import run
from vision_infer.stream.find import NotFoundError, find_sources


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive") / "in", 5)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server():
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket"


def settings(source: Path | str, out: Path | str, **more: object) -> RunSettings:
    values = {"recursive": True, "model": "clock", "engine": "null-cpu-none", "formats": ("jsonl", "parquet")} | more
    return run_settings(sources=(str(source),), out=(f"{out}/",), **values)


def read(of: RunSettings, segment_s: float = SEGMENT_S) -> tuple[ArchivePlan, list[FileOutcome]]:
    """Plan a run, and read its files with one reader, several at the same time; return the outcomes in the order of the work."""
    plan = plan_archive(of)
    reader = ArchiveReader(of, plan.shapes, plan.out, segment_s)
    opened = reader.open()
    assert opened.error is None
    work, outcomes = ArchiveWork(plan.todo), []
    with ThreadPoolExecutor(opened.files_at_once) as threads:
        while not work.done:
            files: list[ArchiveFile] = []
            while len(files) < opened.files_at_once and (file := work.take([file.key for file in files])) is not None:
                files.append(file)
            for file, outcome in zip(files, threads.map(reader.read, files), strict=True):
                outcomes.append(outcome)
                if outcome.segments:
                    work.split(file.key, outcome.segments, plan.read_segments(file, outcome.segments))
                elif file.part is None:
                    work.finish(file.key)
                else:
                    work.finish_part(file.key, outcome.read_whole)
    reader.close()
    return plan, outcomes


def test_the_outputs_are_those_of_one_machine(archive: Path, tmp_path: Path) -> None:
    run(settings(archive, tmp_path / "alone"), threading.Event())
    _, outcomes = read(settings(archive, tmp_path / "cluster"))
    alone = row_bytes(tmp_path / "alone")
    assert len(alone) == 6
    assert all(alone.values())
    assert row_bytes(tmp_path / "cluster") == alone
    compared = tables(tmp_path / "alone")
    assert tables(tmp_path / "cluster") == compared
    assert {"stream", "frame", "pts_s"} <= set(compared["clip000.parquet"].column_names)
    assert [outcome.source["state"] for outcome in outcomes] == ["ended"] * 6
    assert sorted(os.listdir(tmp_path / "cluster")) == sorted([STATE, *os.listdir(tmp_path / "alone")])


def test_resume_reads_what_is_missing_or_has_changed(archive: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(archive, folder)
    read(settings(folder, out))
    with pytest.raises(OutputError, match="exists already"):
        plan_archive(settings(folder, out))
    before = row_bytes(out)
    (out / "clip001.parquet").unlink()
    (out / ".clip001.parquet.lost-node-17.partial").write_bytes(b"PAR1")
    shutil.copy(clip(NTSC), folder / "clip003.mp4")
    os.utime(folder / "clip003.mp4", ns=(1, 1))
    shutil.copy(clip(H264), folder / "clip000.mkv")  # sorted before clip000.mp4: names are not given to other files
    again = settings(folder, out, resume=True)
    plan, _ = read(again)
    assert sorted(file.name for file in plan.todo) == ["clip000-3", "clip001", "clip003"]
    assert len(plan.finished) == 4
    after = row_bytes(out)
    assert after.keys() == before.keys() | {"clip000-3.jsonl"}
    assert {name for name in before if after[name] != before[name]} <= {"clip003.jsonl"}
    assert plan_archive(again).todo == ()
    assert not list(out.glob(".*.partial"))
    with pytest.raises(UsageError, match="options differ from the earlier run: --every"):
        plan_archive(settings(folder, out, resume=True, every=2))


def test_outputs_of_a_changed_file_do_not_survive_an_interrupted_run(archive: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(archive, folder)
    read(settings(folder, out))
    os.utime(folder / "clip002.mp4", ns=(1, 1))
    again = settings(folder, out, resume=True)
    for _ in range(2):  # the first of them is interrupted before it has read anything
        assert [file.name for file in plan_archive(again).todo] == ["clip002"]
    assert len(plan_archive(settings(folder, out, overwrite=True)).todo) == 6
    assert len(plan_archive(again).todo) == 6, "--overwrite starts again"


def test_a_broken_file_keeps_its_rows_and_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(clip(H264), folder / "good.mp4")
    shutil.copy(changed(H264, "cut"), folder / "cut.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    run(settings(folder, tmp_path / "alone"), threading.Event())
    _, outcomes = read(settings(folder, tmp_path / "out"))
    failed = {outcome.source["name"]: outcome for outcome in outcomes if outcome.source["error"]}
    assert "empty" in failed
    assert failed["empty"].exit_status == 1
    assert str(folder / "empty.mp4") in failed["empty"].source["error"]
    assert row_bytes(tmp_path / "out") == row_bytes(tmp_path / "alone")
    assert {file.name for file in plan_archive(settings(folder, tmp_path / "out", resume=True)).todo} == failed.keys()


def test_long_files_are_read_in_segments(tmp_path: Path) -> None:
    folder, formats = tmp_path / "in", ("jsonl", "csv", "txt", "parquet")
    folder.mkdir()
    shutil.copy(clip(B_FRAMES), folder / "long.mp4")
    shutil.copy(changed(NTSC, "holes"), folder / "holes.mp4")
    shutil.copy(clip(REFRESH), folder / "refresh.mp4")
    options = {"formats": formats, "every": 3}
    run(settings(folder, tmp_path / "alone", **options), threading.Event())
    _, outcomes = read(settings(folder, tmp_path / "out", **options), 0.4)
    segments = next(outcome.segments for outcome in outcomes if outcome.source["name"] == "long" and outcome.segments)
    assert [segment.first for segment in segments] == [0, 12, 24]
    assert {outcome.source["name"].partition("/")[0] for outcome in outcomes if outcome.read_whole} == {"refresh"}
    alone = row_bytes(tmp_path / "alone")
    assert alone["long.jsonl"].count(b"\n") == 14
    assert row_bytes(tmp_path / "out") == alone
    assert sorted(os.listdir(tmp_path / "out")) == sorted([STATE, *os.listdir(tmp_path / "alone")]), "no part is left"
    for suffix in ("csv", "txt"):
        assert (tmp_path / "out" / f"long.{suffix}").read_bytes() == (tmp_path / "alone" / f"long.{suffix}").read_bytes()
    assert tables(tmp_path / "out") == tables(tmp_path / "alone")


def test_the_detections_of_segments_are_those_of_the_file(tmp_path: Path) -> None:
    options = {"model": "nanodet-416", "engine": "onnxruntime-cpu-fp32", "every": 10, "formats": ("jsonl", "csv", "parquet")}
    run(settings(bikes(), tmp_path / "alone", **options), threading.Event())
    _, outcomes = read(settings(bikes(), tmp_path / "out", **options), 2.0)
    assert [len(outcome.segments) for outcome in outcomes if outcome.segments] == [4]
    assert row_bytes(tmp_path / "out") == row_bytes(tmp_path / "alone")
    assert (tmp_path / "out" / "bikes.csv").read_bytes() == (tmp_path / "alone" / "bikes.csv").read_bytes()
    assert tables(tmp_path / "out")["bikes.parquet"].num_rows > 50
    assert tables(tmp_path / "out") == tables(tmp_path / "alone")


def test_a_segment_that_cannot_be_read_makes_its_file_whole(tmp_path: Path) -> None:
    shutil.copy(clip(B_FRAMES), tmp_path / "long.mp4")
    plan = plan_archive(settings(tmp_path / "long.mp4", tmp_path / "out"))
    reader = ArchiveReader(settings(tmp_path / "long.mp4", tmp_path / "out"), plan.shapes, plan.out, 0.4)
    assert reader.open().error is None
    (file,) = plan.todo
    file = replace(file, segments=reader.read(file).segments)
    (tmp_path / "long.mp4").unlink()
    assert reader.read(replace(file, part=1)).read_whole
    whole = reader.read(replace(file, whole=True))
    assert (whole.exit_status, "long.mp4: no such file" in whole.source["error"]) == (1, True)
    joined = reader.read(file)
    assert "the outputs of its segments were removed" in joined.source["error"]
    reader.close()


def test_resume_uses_the_segments_that_are_read(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(clip(B_FRAMES), folder / "long.mp4")
    run(settings(folder, tmp_path / "alone"), threading.Event())
    plan = plan_archive(settings(folder, out))
    reader = ArchiveReader(settings(folder, out), plan.shapes, plan.out, 0.4)
    assert reader.open().error is None
    segments = reader.read(plan.todo[0]).segments
    reader.read(replace(plan.todo[0], segments=segments, part=1))
    reader.close()
    parts = {name for name in os.listdir(out) if output_of(name)}
    assert parts == {".long.jsonl.12-24.part", ".long.parquet.12-24.part"}
    plan, outcomes = read(settings(folder, out, resume=True), 0.4)
    assert plan.parts == parts
    assert sum(outcome.source["frames"] for outcome in outcomes) == 28
    assert row_bytes(out) == row_bytes(tmp_path / "alone")
    (out / ".long.jsonl.12-24.part").write_bytes(b"of an older file")
    os.utime(folder / "long.mp4", ns=(1, 1))
    assert plan_archive(settings(folder, out, resume=True)).parts == frozenset()
    assert not [name for name in os.listdir(out) if output_of(name)]


@pytest.mark.parametrize("option", [{"track": True}, {"fps": 5.0}, {"gate": "motion"}, {"start": 0.1}, {"formats": ("json",)}])
def test_what_depends_on_earlier_frames_is_not_split(tmp_path: Path, option: dict[str, object]) -> None:
    shutil.copy(clip(B_FRAMES), tmp_path / "long.mp4")
    _, outcomes = read(settings(tmp_path / "long.mp4", tmp_path / "out", **option), 0.4)
    assert [outcome.segments for outcome in outcomes] == [()]
    assert outcomes[0].source["error"] is None


def test_file_urls_are_paths(archive: Path, tmp_path: Path) -> None:
    run(settings(archive, tmp_path / "alone"), threading.Event())
    plan, _ = read(settings(archive.as_uri(), (tmp_path / "out").as_uri()))
    assert plan.todo[0].url == str(archive / "clip000.mp4")
    assert row_bytes(tmp_path / "out") == row_bytes(tmp_path / "alone")


def test_names_and_order_are_those_of_one_machine(archive: Path) -> None:
    found = find_files((str(archive), str(archive / "clip*.mp4")), True, {})
    alone = find_sources((str(archive), str(archive / "clip*.mp4")), True)
    assert [(file.name, file.url) for file in found.files] == [(spec.name, spec.paths[0]) for spec in alone.specs]
    with pytest.raises(UsageError, match="serve --cluster"):
        find_files(("rtsp://camera/1",), False, {})


def test_what_is_wrong_with_every_file_is_reported_before_the_first(archive: Path, tmp_path: Path) -> None:
    plan = plan_archive(settings(archive, tmp_path / "out"))
    opened = ArchiveReader(settings(archive, tmp_path / "out", classes=("unicorn",)), plan.shapes, plan.out).open()
    assert opened.error is not None
    assert "unicorn" in opened.error[0]


def test_sources_and_outputs_in_object_storage(archive: Path, tmp_path: Path, bucket: str) -> None:
    s3 = fsspec.filesystem("s3", skip_instance_cache=True)
    s3.put(f"{archive}/", f"{bucket}/in", recursive=True)
    run(settings(archive, tmp_path / "alone"), threading.Event())
    _, outcomes = read(settings(f"{bucket}/in/", f"{bucket}/out"))
    assert outcomes[0].source["source"] == f"{bucket}/in/clip000.mp4"
    s3.invalidate_cache()
    names = {path.rpartition("/")[2] for path in s3.ls(f"{bucket}/out")}
    assert names == {STATE, *os.listdir(tmp_path / "alone")}
    found = {name: without_times(s3.cat_file(f"{bucket}/out/{name}")) for name in names if name.endswith(".jsonl")}
    assert found == row_bytes(tmp_path / "alone")
    again = settings(f"{bucket}/in/", f"{bucket}/out", resume=True)
    assert plan_archive(again).todo == ()
    OutputFolder(f"{bucket}/out").remove(["clip002.jsonl"])
    s3.put_file(str(clip(H264)), f"{bucket}/in/clip001.mp4")
    plan, outcomes = read(again)
    assert [file.name for file in plan.todo] == ["clip001", "clip002"]
    s3.put_file(str(clip(B_FRAMES)), f"{bucket}/long/film.mp4")
    run(settings(clip(B_FRAMES), tmp_path / "film"), threading.Event())
    read(settings(f"{bucket}/long/", f"{bucket}/long-out"), 0.4)
    s3.invalidate_cache()
    assert {path.rpartition("/")[2] for path in s3.ls(f"{bucket}/long-out")} == {STATE, "film.jsonl", "film.parquet"}
    (rows,) = row_bytes(tmp_path / "film").values()
    name = clip(B_FRAMES).stem.encode()
    assert without_times(s3.cat_file(f"{bucket}/long-out/film.jsonl")) == rows.replace(name, b"film")
    missing = settings(f"{bucket}/none/", f"{bucket}/out", resume=True)
    with pytest.raises(NotFoundError, match="no video file was found"):
        plan_archive(missing)
