"""The references of the surface kernels in NumPy, and the kernels' source, compiled for the CPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Surface
from vision_infer.engine.gpu.surface_kernel import BLOCK, KERNELS, SOURCE, Task, coefficients, grid, table

HOST = """
#include <cmath>
#define __device__
#define __global__
#define __grid_constant__
struct Place { int x, y, z; };
static thread_local Place blockIdx, threadIdx;
static const Place blockDim = {%d, %d, 1};
"""
LOOP = """
extern "C" void %s_everywhere(int blocks_x, int blocks_y, int blocks_z, const Tasks* tasks) {
    for (blockIdx.z = 0; blockIdx.z < blocks_z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < blocks_y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < blocks_x; blockIdx.x++)
                for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
                    for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) %s(*tasks);
}
"""
SIZE_OF_TABLE = 'extern "C" int size_of_table() { return sizeof(Tasks); }'


def make_surface(luma: NDArray[Any], chroma: NDArray[Any], matrix: int = 1, full_range: bool = False, device: int = 0) -> Surface:
    """Return a surface of two arrays in host memory: luma [H, W], chroma [⌈H/2⌉, ⌈W/2⌉, 2]; uint8, or uint16 as P010 has them."""
    return Surface(
        Size(luma.shape[1], luma.shape[0]),
        *(luma.ctypes.data, luma.strides[0], chroma.ctypes.data, chroma.strides[0], luma.itemsize),
        *(matrix, full_range, device, (luma, chroma)),
    )


def part_of(surface: Surface, x: int, y: int, size: Size) -> Surface:
    """Return a part of a surface."""
    return replace(surface, x=x, y=y, size=size)


def on_the_cpu(folder: Path) -> Any:
    """Return the library of the kernels, with sequential threads; skip the test without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    loops = "".join(LOOP % (kernel, kernel) for kernel in KERNELS)
    source, library = folder / "surface.cpp", folder / "surface.so"
    source.write_text(HOST % BLOCK + SOURCE + loops + SIZE_OF_TABLE)
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-Wall", "-Werror", str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def run_with(library: Any, kernel: str, *tasks: Task) -> None:
    """Run a kernel."""
    function = getattr(library, f"{kernel}_everywhere")
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    function.restype = None
    arguments = table(tasks)
    function(*grid(tasks), ctypes.addressof(arguments))


def reference(surface: Surface, letterbox: Letterbox) -> NDArray[np.uint8]:
    """Return the expected content of the slot: uint8 [H, W, 3]."""
    content = letterbox.content
    luma, chroma = _light(surface)
    light = _luma(surface, luma, content)
    u, v = (_chroma(surface, chroma[:, :, channel], content, 0.25) for channel in (0, 1))
    zero, gain, red_v, green_u, green_v, blue_u = coefficients(surface.matrix, surface.full_range)
    light, u, v = (light - zero) * gain, u - 128, v - 128
    rgb = np.stack([light + red_v * v, light + green_u * u + green_v * v, light + blue_u * u], axis=2)
    slot = np.empty((letterbox.input.height, letterbox.input.width, 3), np.uint8)
    slot[:] = letterbox.fill
    slot[letterbox.y : letterbox.y + content.height, letterbox.x : letterbox.x + content.width] = _rounded(rgb)
    return slot


def reference_yuv420(surface: Surface, size: Size) -> NDArray[np.uint8]:
    """Return the expected planes Y, U and V: uint8 [1.5 H, W]."""
    luma, chroma = _light(surface)
    half = Size(size.width // 2, size.height // 2)
    shift = 0.25 - 0.25 * surface.size.width / size.width
    planes = [_luma(surface, luma, size), *(_chroma(surface, chroma[:, :, channel], half, shift) for channel in (0, 1))]
    return np.concatenate([_rounded(plane).reshape(-1) for plane in planes]).reshape(-1, size.width)


def reference_luma(surface: Surface, step: int) -> NDArray[np.uint8]:
    """Return the expected samples."""
    part = _planes(surface)[0][surface.y :: step, surface.x :: step]
    return np.ascontiguousarray(part if part.itemsize == 1 else (part >> 8).astype(np.uint8))


def _planes(surface: Surface) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return luma and chroma from the left and top edge of the frame to the right and bottom edge of the part."""
    kind = np.uint8 if surface.sample_bytes == 1 else np.uint16
    width, height = surface.x + surface.size.width, surface.y + surface.size.height

    def at(address: int, pitch: int, rows: int, columns: int) -> NDArray[Any]:
        nbytes = pitch * (rows - 1) + columns * surface.sample_bytes  # the last row may end before its pitch
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        strides = (pitch, surface.sample_bytes)
        return np.lib.stride_tricks.as_strided(memory.view(kind), (rows, columns), strides)

    columns = (width + 1) // 2
    chroma = at(surface.chroma, surface.chroma_pitch, (height + 1) // 2, columns * 2)
    return at(surface.luma, surface.luma_pitch, height, width), chroma.reshape(len(chroma), columns, 2)


def _light(surface: Surface) -> list[NDArray[np.float64]]:
    return [plane.astype(np.float64) / (1 if plane.itemsize == 1 else 256) for plane in _planes(surface)]


def _rounded(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.floor(np.clip(values, 0, 255) + 0.5).clip(0, 255).astype(np.uint8)


def _luma(surface: Surface, plane: NDArray[np.float64], size: Size) -> NDArray[np.float64]:
    part = surface.size
    across = _weights(plane.shape[1], size.width, surface.x, part.width, (surface.x, surface.x + part.width - 1))
    down = _weights(plane.shape[0], size.height, surface.y, part.height, (surface.y, surface.y + part.height - 1))
    return down @ plane @ across.T


def _chroma(surface: Surface, plane: NDArray[np.float64], size: Size, shift: float) -> NDArray[np.float64]:
    (x, y), part = (surface.x, surface.y), surface.size
    ends = (x // 2, (x + part.width - 1) // 2), (y // 2, (y + part.height - 1) // 2)
    across = _weights(plane.shape[1], size.width, x / 2, part.width / 2, ends[0], shift)
    down = _weights(plane.shape[0], size.height, y / 2, part.height / 2, ends[1])
    return down @ plane @ across.T


def _weights(
    samples: int, pixels: int, start: float, length: float, ends: tuple[int, int], shift: float = 0.0
) -> NDArray[np.float64]:
    """Return the weight of each sample in each pixel [pixels, samples]; samples outside ``ends`` repeat the edge."""
    scale = length / pixels
    reach = max(scale, 1.0)
    middles = start + (np.arange(pixels) + 0.5) * scale - 0.5 + shift
    margin = int(np.ceil(reach)) + 1
    places = np.arange(-margin, samples + margin)
    parts = np.clip(1 - np.abs(places[None] - middles[:, None]) / reach, 0, None)
    weights = np.zeros((pixels, samples))
    np.add.at(weights.T, places.clip(*ends), parts.T)
    weights /= weights.sum(1, keepdims=True)
    return weights
