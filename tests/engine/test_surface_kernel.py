"""The kernel that writes decoded frames into slots: compiled for each kind of GPU, and its source run on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engine.surfaces import make_surface, on_the_cpu, reference, write_with
from tests.support.gpu import needs_gpu
from tests.support.media import bikes, decoded
from vision_infer.core.geometry import Fit, Size, letterbox
from vision_infer.core.image import Surface
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.gpu.surface_kernel import KERNELS, coefficients, compiled
from vision_infer.stream.image import VideoImage

FITS: list[Fit] = ["center", "top_left", "stretch"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return on_the_cpu(tmp_path_factory.mktemp("kernel"))


def noise(size: Size, kind: type[np.unsignedinteger[Any]], seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    random, most = np.random.default_rng(seed), np.iinfo(kind).max + 1
    chroma = (-(-size.height // 2), -(-size.width // 2), 2)
    return random.integers(0, most, (size.height, size.width), kind), random.integers(0, most, chroma, kind)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_120"])
def test_the_kernel_compiles_for_each_kind_of_gpu(architecture: str) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    content = compiled(architecture)
    assert content[:4] == b"\x7fELF"
    assert all(name.encode() in content for name in KERNELS.values())


def test_a_gpu_that_is_newer_than_the_compiler_gets_ptx() -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    assert b".visible .entry write_nv12" in compiled("sm_999")


@settings(max_examples=40)
@given(
    st.integers(1, 90),
    st.integers(1, 70),
    st.sampled_from(FITS),
    st.sampled_from([np.uint8, np.uint16]),
    st.sampled_from([1, 6, 9]),
    st.booleans(),
)
def test_the_kernel_matches_the_reference(
    library: Any, width: int, height: int, fit: Fit, kind: Any, matrix: int, full: bool
) -> None:
    surface = make_surface(*noise(Size(width, height), kind), matrix, full)
    box = letterbox(surface.size, Size(40, 31), fit, (1, 2, 3))
    slot = np.full((31, 40, 3), 77, np.uint8)
    write_with(library, slot, surface, box)
    away = np.abs(slot.astype(int) - reference(surface, box))
    assert away.max() <= 1  # of rounding
    assert (away > 0).mean() < 0.02


def test_rows_can_be_longer_than_the_frame(library: Any) -> None:
    luma, chroma = noise(Size(64, 20), np.uint8)
    surface = make_surface(luma[:, :41], chroma[:, :21])
    box = letterbox(surface.size, Size(32, 32), "center", (9, 8, 7))
    slot = np.zeros((32, 32, 3), np.uint8)
    write_with(library, slot, surface, box)
    assert np.abs(slot.astype(int) - reference(surface, box)).max() <= 1


@pytest.mark.parametrize("target", [Size(416, 416), Size(320, 192), Size(640, 480)])
def test_the_kernel_agrees_with_the_scaler_of_ffmpeg(library: Any, target: Size) -> None:
    """The scaler rounds down in the conversion, by one step in red and blue, and is less exact in chroma."""
    for frame in list(decoded(bikes()))[::80]:
        image = VideoImage(frame)
        nv12 = frame.reformat(format="nv12")
        planes = []
        for plane, width, depth in zip(nv12.planes, (frame.width, -(-frame.width // 2)), (1, 2), strict=True):
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:, : width * depth]
            planes.append(np.ascontiguousarray(rows))
        chroma = planes[1].reshape(planes[1].shape[0], -1, 2)
        surface = make_surface(planes[0][: frame.height], chroma, frame.colorspace, frame.color_range == 2)
        box = letterbox(image.size, target, "center", (114, 114, 114))
        slot = HostSlot(np.zeros((target.height, target.width, 3), np.uint8))
        image.write_into(slot, box)
        mine = np.zeros_like(slot.pixels)
        write_with(library, mine, surface, box)
        away = np.abs(mine.astype(int) - slot.pixels)
        assert away.mean() < 1.5
        assert np.percentile(away, 99) <= 6


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
@needs_gpu
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_on_a_gpu_the_kernel_matches_the_reference(kind: Any) -> None:
    from vision_infer.engine.gpu.cuda import cuda_device

    device = cuda_device(0)
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
        device.write_surface(address, there, box, stream)
        device.copy_out(slot, address, stream)
        device.record(event, stream)
        device.synchronize(event)
        assert np.abs(slot.astype(int) - reference(here, box)).max() <= 1
        for place in (*places, address):
            device.free(place)
    device.destroy(stream, event)
