"""The kernels that read decoded frames: compiled for each kind of GPU, and their source run on the CPU."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engine.surfaces import (
    make_surface,
    on_the_cpu,
    part_of,
    reference,
    reference_luma,
    reference_yuv420,
    run_with,
)
from tests.support.gpu import needs_cuda
from tests.support.media import bikes, decoded
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Fit, Size, letterbox
from vision_infer.core.image import Surface
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.gpu import surface_kernel
from vision_infer.engine.gpu.surface_kernel import (
    KERNELS,
    MAX_TASKS,
    Task,
    coefficients,
    compiled,
    luma_task,
    rgb_task,
    table,
    yuv420_task,
)
from vision_infer.engine.gpu.surface_reader import DeviceReader
from vision_infer.stream.image import ArrayImage, VideoImage

FITS: list[Fit] = ["center", "top_left", "stretch"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return on_the_cpu(tmp_path_factory.mktemp("kernel"))


def noise(size: Size, kind: Any, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    random, most = np.random.default_rng(seed), np.iinfo(kind).max + 1
    chroma = (-(-size.height // 2), -(-size.width // 2), 2)
    return random.integers(0, most, (size.height, size.width), kind), random.integers(0, most, chroma, kind)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_the_kernels_compile_for_each_kind_of_gpu(architecture: str) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    content = compiled(architecture)
    assert content[:4] == b"\x7fELF"
    assert all(name.encode() in content for name in KERNELS)


def test_a_gpu_that_is_newer_than_the_compiler_gets_ptx() -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    assert all(f".visible .entry {name}".encode() in compiled("sm_999") for name in KERNELS)


def test_a_kernel_with_an_error_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    monkeypatch.setattr(surface_kernel, "SOURCE", "this is not C")
    with pytest.raises(EngineError, match=r"cannot be compiled for sm_89: surface\.cu\(1\): error"):
        compiled.__wrapped__("sm_89")


def test_the_table_is_the_same_in_c_and_fits_the_arguments_of_a_kernel(library: Any) -> None:
    assert library.size_of_table() == ctypes.sizeof(table([Task()])) <= 4096


SOURCES = st.tuples(
    st.integers(1, 90), st.integers(1, 70), st.sampled_from([np.uint8, np.uint16]), st.sampled_from([1, 6, 9]), st.booleans()
)
PARTS = st.tuples(*[st.floats(0, 0.999)] * 4)


def surface_of(source: tuple[int, int, Any, int, bool]) -> Surface:
    width, height, kind, matrix, full = source
    return make_surface(*noise(Size(width, height), kind), matrix, full)


def some_part(surface: Surface, shares: tuple[float, ...]) -> Surface:
    """Return a part of at least one pixel."""
    x, y = int(shares[0] * surface.size.width), int(shares[1] * surface.size.height)
    size = Size(1 + int(shares[2] * (surface.size.width - x)), 1 + int(shares[3] * (surface.size.height - y)))
    return part_of(surface, x, y, size)


def assert_same(found: NDArray[np.uint8], expected: NDArray[np.uint8], share: float = 0.02) -> None:
    away = np.abs(found.astype(int) - expected)
    assert away.max() <= 1  # of rounding
    assert (away > 0).mean() < share


@settings(max_examples=40)
@given(SOURCES, st.one_of(st.just((0.0, 0.0, 0.999, 0.999)), PARTS), st.sampled_from(FITS))
def test_slots_match_the_reference(library: Any, source: Any, shares: tuple[float, ...], fit: Fit) -> None:
    surface = some_part(surface_of(source), shares)
    box = letterbox(surface.size, Size(40, 31), fit, (1, 2, 3))
    slot = np.full((31, 40, 3), 77, np.uint8)
    run_with(library, "write_rgb", rgb_task(slot.ctypes.data, surface, box))
    assert_same(slot, reference(surface, box))


@settings(max_examples=40)
@given(SOURCES, st.one_of(st.just((0.0, 0.0, 0.999, 0.999)), PARTS), st.integers(1, 25), st.integers(1, 25))
def test_small_yuv_images_match_the_reference(library: Any, source: Any, shares: Any, width: int, height: int) -> None:
    surface, size = some_part(surface_of(source), shares), Size(2 * width, 2 * height)
    found = np.full((3 * height, 2 * width), 77, np.uint8)
    run_with(library, "write_yuv420", yuv420_task(found.ctypes.data, surface, size))
    assert_same(found, reference_yuv420(surface, size), 0.5)  # halves are common when a frame shrinks by a whole number


@given(SOURCES, st.one_of(st.just((0.0, 0.0, 0.999, 0.999)), PARTS), st.integers(1, 12))
def test_luma_samples_are_exact(library: Any, source: Any, shares: Any, step: int) -> None:
    surface = some_part(surface_of(source), shares)
    expected = reference_luma(surface, step)
    found = np.full_like(expected, 77)
    run_with(library, "write_luma", luma_task(found.ctypes.data, surface, step))
    assert np.array_equal(found, expected)


def test_one_launch_writes_frames_of_different_kinds_into_their_slots(library: Any) -> None:
    sizes = [Size(64, 20), Size(33, 47), Size(5, 5)]
    surfaces = [make_surface(*noise(size, kind)) for size, kind in zip(sizes, (np.uint8, np.uint16, np.uint8), strict=True)]
    boxes = [letterbox(size, Size(32, 24), "center", (9, 8, 7)) for size in sizes]
    slots = np.zeros((3, 24, 32, 3), np.uint8)
    tasks = [rgb_task(slot.ctypes.data, surface, box) for slot, surface, box in zip(slots, surfaces, boxes, strict=True)]
    run_with(library, "write_rgb", *tasks)
    for slot, surface, box in zip(slots, surfaces, boxes, strict=True):
        assert_same(slot, reference(surface, box))
    assert len(tasks) <= MAX_TASKS


def test_rows_can_be_longer_than_the_frame(library: Any) -> None:
    luma, chroma = noise(Size(64, 20), np.uint8)
    surface = make_surface(luma[:, :41], chroma[:, :21])
    box = letterbox(surface.size, Size(32, 32), "center", (9, 8, 7))
    slot = np.zeros((32, 32, 3), np.uint8)
    run_with(library, "write_rgb", rgb_task(slot.ctypes.data, surface, box))
    assert np.abs(slot.astype(int) - reference(surface, box)).max() <= 1


def nv12_of(frame: Any) -> Surface:
    """Return a frame of a file as a surface."""
    planes = []
    nv12 = frame.reformat(format="nv12")
    for plane, width, depth in zip(nv12.planes, (frame.width, -(-frame.width // 2)), (1, 2), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:, : width * depth]
        planes.append(np.ascontiguousarray(rows))
    chroma = planes[1].reshape(planes[1].shape[0], -1, 2)
    return make_surface(planes[0][: frame.height], chroma, frame.colorspace, frame.color_range == 2)


@pytest.mark.parametrize("target", [Size(416, 416), Size(320, 192), Size(640, 480)])
def test_the_kernel_agrees_with_the_scaler_of_ffmpeg(library: Any, target: Size) -> None:
    """The scaler rounds down in the conversion, by one step in red and blue, and is less exact in chroma."""
    for frame in list(decoded(bikes()))[::80]:
        image = VideoImage(frame)
        box = letterbox(image.size, target, "center", (114, 114, 114))
        slot = HostSlot(np.zeros((target.height, target.width, 3), np.uint8))
        image.write_into(slot, box)
        mine = np.zeros_like(slot.pixels)
        run_with(library, "write_rgb", rgb_task(mine.ctypes.data, nv12_of(frame), box))
        away = np.abs(mine.astype(int) - slot.pixels)
        assert away.mean() < 1.5
        assert np.percentile(away, 99) <= 6


def test_small_yuv_images_agree_with_the_scaler_of_ffmpeg(library: Any) -> None:
    frame, size = decoded(bikes())[40], Size(256, 144)
    mine = np.zeros((size.height * 3 // 2, size.width), np.uint8)
    run_with(library, "write_yuv420", yuv420_task(mine.ctypes.data, nv12_of(frame), size))
    expected = frame.reformat(size.width, size.height, "yuv420p", interpolation="BILINEAR").to_ndarray()
    away = np.abs(mine.astype(int) - expected)
    assert away.mean() < 1.0
    assert np.percentile(away, 99) <= 4


def test_a_part_is_what_a_crop_of_the_whole_image_contains(library: Any) -> None:
    frame = decoded(bikes())[40]
    whole = VideoImage(frame).to_rgb()
    for x, y, size in ((100, 50, Size(120, 200)), (101, 51, Size(77, 33))):
        box = letterbox(size, Size(96, 96), "stretch", (0, 0, 0))
        slot = HostSlot(np.zeros((96, 96, 3), np.uint8))
        ArrayImage(whole[y : y + size.height, x : x + size.width]).write_into(slot, box)
        mine = np.zeros_like(slot.pixels)
        run_with(library, "write_rgb", rgb_task(mine.ctypes.data, part_of(nv12_of(frame), x, y, size), box))
        assert np.abs(mine.astype(int) - slot.pixels).mean() < 3


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9, 2])
def test_black_white_and_gray_are_preserved(matrix: int, full: bool) -> None:
    zero, gain, *_ = coefficients(matrix, full)
    black, white = (0, 255) if full else (16, 235)
    assert ((black - zero) * gain, (white - zero) * gain) == pytest.approx((0, 255))


def test_coefficients_match_the_itu_recommendations() -> None:
    """The known factors of ITU-R BT.709 and BT.601, limited range."""
    assert coefficients(1, False)[1:] == pytest.approx((1.164, 1.793, -0.213, -0.533, 2.112), abs=1e-3)
    assert coefficients(6, False)[1:] == pytest.approx((1.164, 1.596, -0.392, -0.813, 2.017), abs=1e-3)
    assert coefficients(6, True)[1:] == pytest.approx((1.0, 1.402, -0.344, -0.714, 1.772), abs=1e-3)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_on_a_gpu_the_kernels_match_the_references(kind: Any) -> None:
    from vision_infer.engine.gpu.cuda import cuda_device

    device = cuda_device(0)
    reader = DeviceReader(device)
    stream, event = device.make_stream(), device.make_event()
    for size in (Size(1920, 1080), Size(641, 37), Size(3, 3)):
        luma, chroma = noise(size, kind)
        here = make_surface(luma, chroma)
        places = [device.allocate(plane.nbytes) for plane in (luma, chroma)]
        for place, plane in zip(places, (luma, chroma), strict=True):
            device.copy_in(place, plane, stream)
        there = Surface(size, places[0], luma.strides[0], places[1], chroma.strides[0], luma.itemsize, 1, False, 0, None)
        box = letterbox(size, Size(416, 416), "center", (1, 2, 3))
        slot, address = np.zeros((416, 416, 3), np.uint8), device.allocate(416 * 416 * 3)
        device.write_surfaces([(address, there, box)], stream)
        device.copy_out(slot, address, stream)
        device.record(event, stream)
        device.synchronize(event)
        assert np.abs(slot.astype(int) - reference(here, box)).max() <= 1
        small, part = Size(64, 48), (size.width // 3, size.height // 3, Size(size.width // 2, size.height // 2))
        for one, other in ((here, there), (part_of(here, *part), part_of(there, *part))):
            planes, samples = reader.yuv420(other, small), reader.luma(other, 5)
            assert planes is not None
            assert np.abs(planes.astype(int) - reference_yuv420(one, small)).max() <= 1
            assert samples is not None
            assert np.array_equal(samples, reference_luma(one, 5))
        for place in (*places, address):
            device.free(place)
    device.destroy(stream, event)
