"""Images are written into slots: the correct pixels, in the correct place, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from tests.support.media import numbered
from vision_infer.core.geometry import Fit, Letterbox, Size, letterbox
from vision_infer.core.image import Image
from vision_infer.engine.engine import HostSlot
from vision_infer.stream import image as module
from vision_infer.stream.image import ArrayImage, VideoImage
from vision_infer.stream.orientation import Orientation

FILL = (114, 7, 200)
TARGET = Size(64, 48)


def slot(size: Size = TARGET) -> HostSlot:
    """Return a slot in the middle of a batch, filled with an older image; its neighbors must not change."""
    batch = np.full((3, size.height, size.width, 3), 99, np.uint8)
    return HostSlot(batch[1])


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def video_frame(width: int, height: int, pix_fmt: str = "yuv420p", seed: int = 0) -> av.VideoFrame:
    smooth = cv2.GaussianBlur(noise(width, height, seed), (0, 0), 2)
    return av.VideoFrame.from_ndarray(np.asarray(smooth, np.uint8), "rgb24").reformat(format=pix_fmt)


def array_image(width: int, height: int, seed: int = 0) -> Image:
    return ArrayImage(noise(width, height, seed))


def video_image(width: int, height: int, seed: int = 0) -> Image:
    return VideoImage(video_frame(width, height, seed=seed))


MAKERS: list[Callable[..., Image]] = [array_image, video_image]
SIZES = [(64, 48), (640, 480), (200, 20), (20, 200), (33, 17), (101, 57), (1, 1), (2, 300), (128, 96), (63, 47)]


def parts(pixels: NDArray[np.uint8], box: Letterbox) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the content, and all pixels around it as [N, 3]."""
    around = np.ones(pixels.shape[:2], bool)
    around[box.y : box.y + box.content.height, box.x : box.x + box.content.width] = False
    return pixels[box.y : box.y + box.content.height, box.x : box.x + box.content.width], pixels[around]


@pytest.mark.parametrize("fit", ["center", "top_left", "stretch"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("make", MAKERS)
def test_the_fill_is_exact_and_neighboring_slots_are_unchanged(
    make: Callable[..., Image], size: tuple[int, int], fit: Fit
) -> None:
    image = make(*size)
    box = letterbox(image.size, TARGET, fit, FILL)
    place = slot()
    image.write_into(place, box)
    content, around = parts(place.pixels, box)
    assert (around == FILL).all()
    assert not (content == 99).all()
    batch = place.pixels.base
    assert isinstance(batch, np.ndarray)
    assert (batch[0] == 99).all()
    assert (batch[2] == 99).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_array_is_resized_as_by_opencv(size: tuple[int, int]) -> None:
    rgb = noise(*size)
    box = letterbox(Size(*size), TARGET, "center", FILL)
    place = slot()
    ArrayImage(rgb).write_into(place, box)
    content = box.content
    shrinks = size[0] > 2 * content.width or size[1] > 2 * content.height
    wanted = cv2.resize(rgb, (content.width, content.height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    assert np.array_equal(parts(place.pixels, box)[0], wanted)


@pytest.mark.parametrize(
    "view",
    [
        lambda rgb: rgb[:, :, ::-1],
        lambda rgb: rgb[::-1],
        lambda rgb: rgb[::2, ::2],
        lambda rgb: rgb.transpose(1, 0, 2),
        lambda rgb: np.asfortranarray(rgb),
    ],
)
def test_any_memory_layout(view: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> None:
    rgb = view(noise(120, 80))
    rgb.flags.writeable = False
    seen, plain = slot(), slot()
    box = letterbox(Size(rgb.shape[1], rgb.shape[0]), TARGET, "center", FILL)
    ArrayImage(rgb).write_into(seen, box)
    ArrayImage(np.ascontiguousarray(rgb)).write_into(plain, box)
    assert np.array_equal(seen.pixels, plain.pixels)
    assert np.array_equal(ArrayImage(rgb).to_rgb(), rgb)


def test_to_rgb_of_an_array_is_a_copy_that_may_be_changed() -> None:
    rgb = noise(9, 5)
    copy = ArrayImage(rgb).to_rgb()
    copy[:] = 0
    assert rgb.any()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_invalid_arrays_are_rejected(wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        ArrayImage(wrong)


FORMATS = ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "nv12", "gray", "rgb24", "bgr24", "rgba", "bgr0"]


@pytest.mark.parametrize("pix_fmt", FORMATS)
@pytest.mark.parametrize("size", [(64, 48), (200, 150), (101, 57), (33, 90)], ids=str)
def test_a_frame_is_converted_as_by_a_new_reformatter(pix_fmt: str, size: tuple[int, int]) -> None:
    frame = video_frame(*size, pix_fmt)
    image = VideoImage(frame)
    box = letterbox(image.size, TARGET, "center", FILL)
    place = slot()
    image.write_into(place, box)
    wanted = VideoReformatter().reformat(
        frame, box.content.width, box.content.height, "rgb24", interpolation=Interpolation.BILINEAR
    )
    assert np.array_equal(parts(place.pixels, box)[0], wanted.to_ndarray())
    full = image.to_rgb()
    assert full.shape == (size[1], size[0], 3)
    assert full.flags.writeable
    assert full.flags.c_contiguous
    assert np.array_equal(full, frame.to_ndarray(format="rgb24", interpolation=Interpolation.BILINEAR))


def test_to_rgb_does_not_change_the_frame() -> None:
    image = VideoImage(video_frame(64, 48, "rgb24"))
    first = image.to_rgb()
    before = first.copy()
    first[:] = 0
    assert np.array_equal(image.to_rgb(), before)


@pytest.mark.parametrize("make", MAKERS)
def test_a_reused_slot_contains_nothing_of_its_previous_image(make: Callable[..., Image]) -> None:
    """After each sequence of two images, the slot contains the same as a new slot."""
    images = [make(*size, seed=number) for number, size in enumerate(SIZES)]
    boxes = [letterbox(one.size, TARGET, fit, FILL) for one in images for fit in ("center", "top_left")]
    boxes += [letterbox(one.size, TARGET, "center", (1, 2, 3)) for one in images]
    work = [(next(one for one in images if one.size == box.source), box) for box in boxes]
    fresh = []
    for image, box in work:
        place = slot()
        image.write_into(place, box)
        fresh.append(place.pixels.copy())
    used = slot()
    for first in range(len(work)):
        for second in range(len(work)):
            for number in (first, second):
                work[number][0].write_into(used, work[number][1])
            assert np.array_equal(used.pixels, fresh[second])
            assert used.layout == work[second][1]


def test_images_of_both_kinds_can_use_the_same_slot() -> None:
    used = slot()
    for number in range(12):
        make = MAKERS[number % 2]
        image = make(*SIZES[number * 7 % len(SIZES)], seed=number)
        box = letterbox(image.size, TARGET, "center", FILL)
        image.write_into(used, box)
        place = slot()
        image.write_into(place, box)
        assert np.array_equal(used.pixels, place.pixels)


def test_a_failed_write_does_not_affect_the_next_one() -> None:
    used = slot()
    tall = ArrayImage(numbered(1, 20, 200))
    ArrayImage(numbered(0, 200, 20)).write_into(used, letterbox(Size(200, 20), TARGET, "center", FILL))
    box = letterbox(tall.size, TARGET, "center", FILL)
    tall._rgb = np.zeros((0, 0, 3), np.uint8)
    with pytest.raises(Exception, match="resize"):
        tall.write_into(used, box)
    fresh, good = slot(), ArrayImage(numbered(1, 20, 200))
    good.write_into(fresh, box)
    good.write_into(used, box)
    assert np.array_equal(used.pixels, fresh.pixels)


def reference(frame: av.VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
    wanted = VideoReformatter().reformat(frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR)
    return np.asarray(wanted.to_ndarray(), np.uint8)


def test_the_reformatters_of_a_thread_are_limited_and_correct_for_alternating_sizes() -> None:
    frames = [
        video_frame(40 + 2 * number, 60 - number, ("yuv420p", "yuv444p", "nv12")[number % 3], number) for number in range(24)
    ]
    wanted = [reference(frame, 32, 24) for frame in frames]
    kept: list[int] = []

    def work() -> None:
        for turn in (1, 5, 7):
            for number in range(len(frames)):
                number = number * turn % len(frames)
                assert np.array_equal(module._to_rgb24(frames[number], 32, 24), wanted[number])
                kept.append(len(module._local.reformatters))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result(timeout=60)
    assert max(kept) == module._REFORMATTERS_PER_THREAD


def test_threads_do_not_share_reformatters() -> None:
    frames = [video_frame(80 + 16 * number, 60 + number, seed=number) for number in range(4)]
    wanted = [reference(frame, 48, 48) for frame in frames]
    together = threading.Barrier(4, timeout=60)

    def work(start: int) -> int:
        together.wait()
        wrong = 0
        for turn in range(200):
            number = (start + turn) % len(frames)
            wrong += not np.array_equal(module._to_rgb24(frames[number], 48, 48), wanted[number])
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4), timeout=60)) == [0] * 4


@pytest.mark.parametrize("pix_fmt", FORMATS)
@pytest.mark.parametrize(
    "orientation", [Orientation(mirrored, turns) for mirrored in (False, True) for turns in range(4)], ids=str
)
def test_a_part_of_a_frame_is_that_of_the_whole_frame(pix_fmt: str, orientation: Orientation) -> None:
    image = VideoImage(video_frame(200, 120, pix_fmt), orientation)
    whole = image.to_rgb().astype(int)
    for left, top, size in (
        (0, 0, Size(64, 40)),
        (24, 18, Size(60, 50)),
        (image.size.width - 50, image.size.height - 30, Size(50, 30)),
    ):
        part = image.part(left, top, size)
        assert part is not None
        assert part.size == size
        wanted = whole[top : top + size.height, left : left + size.width]
        # Chroma is interpolated at the edges of the part.
        assert np.abs(part.to_rgb()[2:-2, 2:-2].astype(int) - wanted[2:-2, 2:-2]).max() <= 4
    rgb = noise(50, 40)
    assert np.array_equal(ArrayImage(rgb).part(4, 6, Size(20, 30)).to_rgb(), rgb[6:36, 4:24])


def test_a_part_of_a_frame_shares_its_memory() -> None:
    frame = video_frame(200, 120)
    part = VideoImage(frame).part(32, 16, Size(64, 64))
    assert part is not None
    inside = part.upright(part.size)
    assert inside is not None
    assert inside.planes[0].buffer_ptr == frame.planes[0].buffer_ptr + 16 * frame.planes[0].line_size + 32


def test_the_crop_filters_of_a_thread_are_limited() -> None:
    frame = video_frame(200, 120)
    for left in range(0, 120, 2):
        for top in range(0, 60, 2):
            assert VideoImage(frame).part(left, top, Size(32, 32)) is not None
    assert len(module._local.crops) == module._CROPS_PER_THREAD
