"""The Python interface: Detector on images of every kind, Pipeline on files."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vision_infer
from tests.support import media
from vision_infer import Detector, Pipeline
from vision_infer.core.detections import Detections
from vision_infer.core.errors import ModelError, StreamError, UsageError, VisionInferError

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in media.decoded(media.bikes())[110:200:40]]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(device="cpu")


def same(first: Detections, second: Detections, pixels: float = 0.0) -> bool:
    return (
        len(first) == len(second)
        and first.labels == second.labels
        and bool(len(first) == 0 or np.abs(first.boxes - second.boxes).max() <= pixels)
    )


def test_one_array(detector: Detector, images: list[NDArray[np.uint8]]) -> None:
    before = images[0].copy()
    found = detector(images[0])
    assert isinstance(found, Detections)
    assert {"person", "bicycle"} & set(found.labels)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2] <= 640).all()
    assert np.array_equal(images[0], before)
    assert same(detector(images[0]), found)


def test_detections_are_filtered_as_on_the_command_line(
    detector: Detector, images: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    region = tmp_path / "left.yaml"
    region.write_text("units: relative\nlook: [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]\n")
    all_found = [found for found in detector(images) if len(found)]
    middles = np.concatenate([(found.boxes[:, 0] + found.boxes[:, 2]) / 2 for found in all_found])
    assert (middles < 320).any()
    assert (middles > 320).any()
    with Detector(device="cpu", region=region) as left:
        kept = left(images)
        assert all((found.boxes[:, 0] + found.boxes[:, 2] <= 640).all() for found in kept)
        assert sum(map(len, kept)) == (middles <= 320).sum()
    sides = np.concatenate([(found.boxes[:, 2:] - found.boxes[:, :2]).min(axis=1) for found in all_found])
    least = float(np.median(sides))
    with Detector(device="cpu", min_size=least, per_class={"bicycle": 1.0}) as large:
        kept = large(images)
        assert 0 < sum(map(len, kept)) <= (sides >= least).sum()
        assert "bicycle" not in {label for found in kept for label in found.labels}
        with pytest.raises(UsageError, match="cycle"):
            Detector(device="cpu", per_class={"cycle": 0.5})
        videos = [media.excerpt(110, 10, 640, 360), tmp_path / "other.mp4"]
        videos[1].symlink_to(videos[0])
        region.write_text("streams: {other: {units: relative, look: [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}}\n")
        rows = list(Pipeline(Detector(device="cpu", region=region)).run(*videos))
    to_the_right = {row.stream for row in rows if (row.detections.boxes[:, [0, 2]].mean(axis=1) > row.size.width / 2).any()}
    assert {row.stream for row in rows} - to_the_right == {"other"}


def test_a_region_file_without_the_stream_is_refused(tmp_path: Path) -> None:
    region = tmp_path / "region.yaml"
    region.write_text("streams: {yard: {look: [[[0, 0], [50, 0], [50, 50]]]}}\n")
    with pytest.raises(UsageError, match="yard"):
        Detector(device="cpu", region=region)(np.zeros((64, 64, 3), np.uint8))


def test_a_path_and_a_pil_image_give_the_same_result(detector: Detector, images: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image").fromarray(images[0])
    image.save(tmp_path / "a.png")
    expected = detector(images[0])
    for given in (image, str(tmp_path / "a.png"), tmp_path / "a.png", image.convert("RGBA")):
        assert same(detector(given), expected)


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_images_return_a_list(detector: Detector, images: list[NDArray[np.uint8]], kind: Any) -> None:
    found = detector(kind(images))
    assert isinstance(found, list)
    assert len(found) == len(images)
    for one, image in zip(found, images, strict=True):
        assert same(one, detector(image))
    assert detector([]) == []
    (only,) = detector([images[0]])
    assert same(only, found[0])


def test_different_sizes_in_one_list(detector: Detector, images: list[NDArray[np.uint8]]) -> None:
    mixed = [images[0], images[0][:200, :300].copy(), images[1][::2, ::2], np.zeros((1, 1, 3), np.uint8)]
    found = detector(mixed)
    for one, image in zip(found, mixed, strict=True):
        assert same(one, detector(image))
        height, width = image.shape[:2]
        assert (one.boxes <= [width, height, width, height]).all()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), "list"),
        (np.zeros((8, 8), np.uint8), "uint8"),
        (np.zeros((8, 8, 4), np.uint8), "uint8"),
        (np.zeros((8, 8, 3), np.float32), "uint8"),
        (np.zeros((0, 8, 3), np.uint8), "uint8"),
        (7, "int"),
        (None, "NoneType"),
    ],
)
def test_invalid_images_are_refused(detector: Detector, image: Any, words: str) -> None:
    for given in (image, [image]) if words != "list" else (image,):
        with pytest.raises(ValueError, match=words):
            detector(given)
    assert len(detector(np.zeros((8, 8, 3), np.uint8))) == 0


def test_an_unreadable_image_raises_an_error(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="no such file"):
        detector(tmp_path / "none.jpg")


def test_calls_from_threads_take_turns(detector: Detector, images: list[NDArray[np.uint8]]) -> None:
    expected = [detector(image) for image in images]

    def work(start: int) -> bool:
        numbers = [(start + turn) % len(images) for turn in range(4)]
        return all(same(detector(images[number]), expected[number]) for number in numbers)

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(3), timeout=60))


def test_closing_and_calling_again(images: list[NDArray[np.uint8]]) -> None:
    with Detector(device="cpu", threads=1) as detector:
        first = detector(images[0])
    detector.close()
    assert same(detector(images[0]), first)
    detector.close()


def test_thresholds_and_classes(images: list[NDArray[np.uint8]]) -> None:
    every = Detector(device="cpu", confidence=0.1)(images[0])
    few = Detector(device="cpu", confidence=0.5, classes=["PERSON"])(images[0])
    assert len(every) > len(few) > 0
    assert set(few.labels) == {"person"}
    assert few.scores.min() >= 0.5
    strict = Detector(device="cpu", confidence=0.1, iou=0.01)(images[0])
    assert len(strict) < len(every)


def test_errors_suggest_similar_names() -> None:
    with pytest.raises(UsageError, match="person"):
        Detector(device="cpu", classes=["persn"])
    with pytest.raises(ModelError, match="nanodet-416"):
        Detector("nanodet-41")
    for wrong in ({"confidence": 1.5}, {"iou": 0}, {"threads": 0}):
        with pytest.raises(UsageError, match=": must be "):
            Detector(**wrong)


def test_pipeline_gives_what_the_detector_gives(detector: Detector) -> None:
    clips = [media.excerpt(20, 10, 640, 272), media.excerpt(120, 14, 320, 240, ".mkv")]
    found = list(Pipeline(detector, workers=2).run(*clips))
    assert len(found) == 24
    for clip in clips:
        of_one = [result for result in found if result.stream == clip.stem]
        frames = media.decoded(clip)
        assert [result.frame for result in of_one] == list(range(len(frames)))
        assert [result.pts_s for result in of_one] == [frame.time for frame in frames]
    first = next(result for result in found if result.stream == clips[0].stem)
    assert first.engine.split("-")[1] == "cpu"
    assert first.model == "nanodet-416"
    assert any(result.detections.labels for result in found)


def test_pipeline_every_and_tracks(detector: Detector) -> None:
    found = list(Pipeline(detector, every=4, track=True).run(media.excerpt(20, 14, 640, 272)))
    assert [result.frame for result in found] == [0, 4, 8, 12]
    assert all(result.detections.track_ids is not None for result in found)


def threads_end(before: set[threading.Thread]) -> None:
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive(), thread.name


def test_leaving_the_loop_early_ends_every_thread(detector: Detector) -> None:
    before = set(threading.enumerate())
    seen = 0
    for _ in Pipeline(detector, workers=2).run(media.bikes(), media.excerpt(20, 10, 640, 272)):
        seen += 1
        if seen == 5:
            break
    gc.collect()
    assert seen == 5
    threads_end(before)


def test_deleting_the_iterator_ends_every_thread(detector: Detector) -> None:
    before = set(threading.enumerate())
    results = iter(Pipeline(detector).run(media.bikes()))
    next(results)
    del results
    gc.collect()
    threads_end(before)


def test_an_error_of_a_source_is_raised_after_the_results_of_the_others(detector: Detector, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    clip = media.excerpt(20, 10, 640, 272)
    results = Pipeline(detector).run(tmp_path / "none.mp4", clip)
    seen: list[int] = []
    with pytest.raises(StreamError, match=r"none\.mp4"):
        seen.extend(result.frame for result in results)
    assert seen == list(range(10))
    threads_end(before)


def test_an_error_inside_the_loop_ends_every_thread(detector: Detector) -> None:
    before = set(threading.enumerate())

    def loop() -> None:
        for _ in Pipeline(detector).run(media.bikes()):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    gc.collect()
    threads_end(before)


def test_no_source_and_an_empty_folder(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no source"):
        list(Pipeline(detector).run())
    with pytest.raises(StreamError, match="the folder contains no video or image"):
        list(Pipeline(detector).run(tmp_path))
    with pytest.raises(UsageError, match="every: must be"):
        Pipeline(detector, every=0)


def test_the_package_exports_its_interface() -> None:
    assert set(vision_infer.__all__) == {"Detection", "Detections", "Detector", "HookFrame", "Pipeline", "Result", "__version__"}
    assert set(vision_infer.__all__) <= set(dir(vision_infer))
    assert vision_infer.Detections is Detections
    with pytest.raises(AttributeError):
        vision_infer.Detectr  # noqa: B018


def test_a_missing_source_is_reported_after_the_results_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    results = Pipeline(Detector(), every=50).run(tmp_path / "empty", media.bikes())
    assert [next(results).frame for _ in range(5)] == [0, 50, 100, 150, 200]
    with pytest.raises(StreamError, match="the folder contains no video or image"):
        next(results)


def test_one_class_can_be_a_word(images: list[NDArray[np.uint8]]) -> None:
    with Detector(device="cpu", confidence=0.5, classes="person") as detector:
        assert set(detector(images[0]).labels) == {"person"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"confidence": 5}, "confidence: must be less than or equal to 1"),
        ({"classes": "persn"}, "unknown class 'persn'"),
        ({"per_class": {"person": 0.5, "Person": 0.4}}, "per_class: Person is given twice"),
        ({"region": "gone.yaml"}, "region gone.yaml: cannot be read"),
        ({"engine": "onnx"}, "unknown engine 'onnx'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"model": "clok"}, "unknown model 'clok'"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_argument_when_the_detector_is_made(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(VisionInferError) as raised:
        Detector(**wrong)
    assert words in str(raised.value)
    assert "--" not in str(raised.value).replace("'vision-infer model list --available'", "").replace("--available", "")


def test_a_detector_lists_its_labels(detector: Detector) -> None:
    assert detector.labels[:3] == ("person", "bicycle", "car")


def test_sources_can_be_a_list(detector: Detector, images: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image").fromarray(images[0]).save(tmp_path / "b.png")
    clip = media.excerpt(20, 10, 640, 272)
    found = list(Pipeline(detector).run([clip, str(tmp_path / "b.png")]))
    assert {result.stream for result in found} == {clip.stem, "b"}


def test_detections_are_drawn_on_a_copy(detector: Detector, images: list[NDArray[np.uint8]]) -> None:
    found = detector(images[0])
    before = images[0].copy()
    drawn = found.draw(images[0])
    assert drawn.shape == images[0].shape
    assert (drawn != images[0]).any()
    assert np.array_equal(images[0], before)
    assert np.array_equal(found.draw(pytest.importorskip("PIL.Image").fromarray(images[0])), drawn)
    amounts = [(found.draw(images[0], labels) != images[0]).sum() for labels in ("none", "names", "scores")]
    assert amounts == sorted(amounts)
    assert amounts[0] < amounts[1] < amounts[2]
    with pytest.raises(ValueError, match="labels must be one of scores, names, none"):
        found.draw(images[0], "all")  # type: ignore[arg-type]


def test_a_wrong_secondary_model_is_refused_when_the_pipeline_is_made(detector: Detector) -> None:
    with pytest.raises(ModelError, match="unknown model 'none'"):
        Pipeline(detector, secondary="none")
    with pytest.raises(UsageError, match=r"secondary: nanodet-416 is a model for 'detect'"):
        Pipeline(detector, secondary="nanodet-416")
