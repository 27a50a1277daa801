"""The order of an archive's files, the search for a file that ends its readers, and the progress: without Ray."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.cluster.archive_files import ArchiveFile
from vision_infer.cluster.archive_work import MAX_LOSSES, ArchiveProgress, ArchiveWork
from vision_infer.pipeline.runs.summary import unread
from vision_infer.stream.files.segments import Segment
from vision_infer.stream.find import NotFoundError

SEGMENTS = tuple(Segment(10 * number, 10, float(number), float(number + 1)) for number in range(3))


def files(*names: str) -> list[ArchiveFile]:
    return [ArchiveFile(name, f"/archive/{name}.mp4", 100) for name in names]


def taken(work: ArchiveWork, *opened: str) -> str | None:
    file = work.take(opened)
    return None if file is None else file.key


def test_the_files_of_a_lost_process_are_read_alone_at_the_end() -> None:
    work = ArchiveWork(files("a", "bad", "c"))
    assert [taken(work), taken(work, "a")] == ["a", "bad"]
    assert work.lose(["a", "bad"], node_lost=False) == []
    assert work.waiting == 3
    assert taken(work) == "c"
    assert taken(work, "c") is None, "a suspect shares its reader with no other file"
    work.finish("c")
    assert taken(work) == "a"
    assert taken(work, "a") is None
    work.finish("a")
    assert taken(work) == "bad"
    assert [file.name for file in work.lose(["bad"], node_lost=False)] == ["bad"]
    assert work.done


def test_the_files_of_a_lost_node_are_next() -> None:
    work = ArchiveWork(files("a", "b", "c"))
    assert [taken(work), taken(work, "a")] == ["a", "b"]
    assert work.lose(["a", "b"], node_lost=True) == []
    assert sorted([taken(work) or "", taken(work, "a") or ""]) == ["a", "b"]
    assert taken(work, "a", "b") == "c"


def test_a_file_that_ends_nodes_fails_after_some() -> None:
    work = ArchiveWork(files("a"))
    for _ in range(MAX_LOSSES - 1):
        assert taken(work) == "a"
        assert work.lose(["a"], node_lost=True) == []
    assert taken(work) == "a"
    assert [file.name for file in work.lose(["a"], node_lost=True)] == ["a"]
    assert work.done


def test_the_segments_of_a_long_file_are_next_and_are_joined() -> None:
    work = ArchiveWork(files("long", "b"))
    assert taken(work) == "long"
    work.split("long", SEGMENTS, {1})
    assert [taken(work), taken(work), taken(work)] == ["long/0", "long/2", "b"]
    assert work.finish_part("long/2", False)
    assert taken(work) is None, "the segments are not all read"
    assert work.lose(["long/0"], node_lost=True) == []
    assert taken(work) == "long/0"
    assert work.finish_part("long/0", False)
    whole = work.take(())
    assert whole is not None
    assert (whole.key, whole.part, whole.segments, whole.whole) == ("long", None, SEGMENTS, False)
    work.finish("long")
    assert not work.done
    work.finish("b")
    assert work.done


def test_a_segment_that_is_not_as_expected_makes_its_file_whole() -> None:
    work = ArchiveWork(files("long"))
    taken(work)
    work.split("long", SEGMENTS, set())
    assert [taken(work), taken(work)] == ["long/0", "long/1"]
    assert not work.finish_part("long/1", True)
    assert taken(work) is None, "one segment is still read, the last one is not needed"
    assert not work.finish_part("long/0", False)
    whole = work.take(())
    assert whole is not None
    assert (whole.key, whole.part, whole.whole) == ("long", None, True)


def test_a_segment_that_ends_its_reader_fails_the_file_once() -> None:
    work = ArchiveWork(files("long", "b"))
    taken(work)
    work.split("long", SEGMENTS, set())
    assert [taken(work), taken(work)] == ["long/0", "long/1"]
    assert work.lose(["long/0", "long/1"], node_lost=False) == []
    assert [taken(work), taken(work)] == ["long/2", "b"]
    work.finish("b")
    assert work.finish_part("long/2", False)
    assert [taken(work), taken(work)] == ["long/0", "long/1"]
    assert [file.key for file in work.lose(["long/0"], node_lost=False)] == ["long"]
    assert work.lose(["long/1"], node_lost=False) == []
    assert work.done


@given(
    st.integers(1, 40),
    st.integers(1, 6),
    st.sets(st.integers(0, 39), max_size=3),
    st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_only_the_files_that_end_their_process_fail(count: int, at_once: int, bad: set[int], lost_nodes: list[bool]) -> None:
    names = [str(number) for number in range(count)]
    work = ArchiveWork(files(*names))
    readers: list[list[str]] = [[], [], []]
    finished: list[str] = []
    failed: list[str] = []
    for turn in range(20 * count + 100):
        for opened in readers:
            while len(opened) < at_once and (file := work.take(opened)) is not None:
                opened.append(file.name)
        if work.done:
            break
        opened = readers[turn % 3]
        if any(int(name) in bad for name in opened) or (turn in range(2, 10, 4) and lost_nodes[turn - 2] and opened):
            by_node = not any(int(name) in bad for name in opened)
            failed += [file.name for file in work.lose(opened, by_node)]
            opened.clear()
        elif opened:
            finished.append(work.finish(opened.pop(0)).name)
    assert work.done
    assert sorted(finished + failed) == sorted(names), "each file once"
    assert {int(name) for name in failed} == {number for number in bad if number < count}


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.sets(st.integers(0, 7)), st.lists(st.integers(0, 5), max_size=60))
def test_each_segment_of_a_long_file_is_read_before_they_are_joined(long: list[bool], odd: set[int], turns: list[int]) -> None:
    names = [str(number) for number in range(len(long))]
    work = ArchiveWork(files(*names))
    opened: list[ArchiveFile] = []
    parts: dict[str, set[int]] = {name: set() for name in names}
    done: list[str] = []
    for turn in [*turns, *[1] * 400]:
        if turn < 3 and (file := work.take([])) is not None:
            opened.append(file)
        elif turn == 3 and opened:  # the node of the first file is lost
            failed = work.lose([opened.pop(0).key], node_lost=True)
            done += [file.name for file in failed]
        elif opened:
            file = opened.pop(0)
            if file.part is not None:
                used = work.finish_part(file.key, int(file.name) in odd and file.part == 1)
                parts[file.name] |= {file.part} if used else set()
                continue
            if long[int(file.name)] and not file.segments:
                work.split(file.key, SEGMENTS, set())
                continue
            work.finish(file.key)
            done.append(file.name)
            assert file.whole == (bool(file.segments) and int(file.name) in odd)
            assert not file.segments or file.whole or parts[file.name] == {0, 1, 2}
    assert work.done
    assert sorted(done) == names, "each file once"


def test_the_remaining_time_counts_bytes_also_of_open_files() -> None:
    todo = [ArchiveFile("a", "s3://b/a.mp4", 100), ArchiveFile("b", "s3://b/b.mp4", 300), ArchiveFile("c", "s3://b/c.mp4", 400)]
    progress = ArchiveProgress(todo, files("earlier"), [NotFoundError("s3://b/none/", "no video file was found")])
    progress.failed = 0  # the argument, which is none of the files
    assert ArchiveProgress(todo).seconds_left is None
    progress.seconds = 10.0
    progress.add(todo[0], "n1", unread("a", "s3://b/a.mp4", "ended") | {"frames": 50}, 0)
    assert progress.seconds_left == 70.0
    progress.partly({"b": 1 / 3, "unknown": 1.0})
    assert progress.seconds_left == pytest.approx(30.0)
    assert progress.line() == "2/4 files, 50 frames, 5.0 fps, 1 node, 00:00:30 left"
    progress.lost(todo[1], "n2", "the process ended")
    assert progress.line() == "3/4 files, 50 frames, 5.0 fps, 2 nodes, 1 failed, 00:00:10 left"
    progress.partly({"b": 0.9})  # an answer that was late
    assert progress.line().endswith(" 00:00:10 left")
    assert progress.exit_status == 1
    assert progress.to_dict()["files_by_node"] == {"n1": 1, "n2": 1}


def test_the_progress_of_a_file_in_segments() -> None:
    long, other = files("long", "b")
    progress = ArchiveProgress([replace(long, size=300), other])
    progress.seconds = 10.0
    read = unread("long", long.url, "ended") | {"frames": 10, "decoded": 10, "detections": 3, "warnings": ["is interlaced"]}
    progress.split(long, {0, 2}, 3)
    assert progress.seconds_left == pytest.approx(30.0), "a segment was read by an earlier run"
    progress.add_part(replace(long, part=0), "n1", read)
    progress.partly({"long/2": 0.5})
    assert progress.line() == "0/2 files, 10 frames, 1.0 fps, 1 node, 00:00:06 left"
    progress.add_part(replace(long, part=2), "n2", read)
    progress.add(long, "n1", unread("long", long.url, "ended"), 0)
    assert progress.line() == "1/2 files, 20 frames, 2.0 fps, 2 nodes, 00:00:03 left"
    assert (progress.sources[0]["detections"], progress.sources[0]["warnings"]) == (6, ["is interlaced"])


def test_what_was_read_of_a_file_that_must_be_whole_does_not_count() -> None:
    (long,) = files("long")
    progress = ArchiveProgress([long])
    progress.seconds = 10.0
    progress.split(long, {0, 1, 2}, 3)
    progress.add_part(replace(long, part=0), "n1", unread("long", long.url, "ended") | {"frames": 10})
    progress.read_whole(long)
    assert (progress.frames, progress.seconds_left) == (0, None)
    progress.add(long, "n1", unread("long", long.url, "ended") | {"frames": 30}, 0)
    assert (progress.frames, progress.done) == (30, 1)
