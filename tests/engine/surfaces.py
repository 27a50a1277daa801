"""The reference of the surface kernel in NumPy, and the kernel's source, compiled for the CPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Surface
from vision_infer.engine.gpu.surface_kernel import ARGUMENT_TYPES, BLOCK, KERNELS, SOURCE, arguments, coefficients, grid

HOST = """
#include <cmath>
#define __device__
#define __global__
struct Place { int x, y; };
static thread_local Place blockIdx, threadIdx;
static const Place blockDim = {%d, %d};
"""
LOOP = """
extern "C" void %s_everywhere(int blocks_x, int blocks_y, %s) {
    for (blockIdx.y = 0; blockIdx.y < blocks_y; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < blocks_x; blockIdx.x++)
            for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
                for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) %s(%s);
}
"""
_C = {ctypes.c_void_p: "unsigned char*", ctypes.c_int: "int", ctypes.c_uint: "unsigned int", ctypes.c_float: "float"}


def make_surface(luma: NDArray[Any], chroma: NDArray[Any], matrix: int = 1, full_range: bool = False, device: int = 0) -> Surface:
    """Return a surface of two arrays in host memory: luma [H, W], chroma [⌈H/2⌉, ⌈W/2⌉, 2]; uint8, or uint16 as P010 has them."""
    return Surface(
        Size(luma.shape[1], luma.shape[0]),
        *(luma.ctypes.data, luma.strides[0], chroma.ctypes.data, chroma.strides[0], luma.itemsize),
        *(matrix, full_range, device, (luma, chroma)),
    )


def on_the_cpu(folder: Path) -> Any:
    """Return the library of the kernel, with sequential threads; skip the test without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    names = ", ".join(f"a{number}" for number in range(len(ARGUMENT_TYPES)))
    declared = ", ".join(f"{_C[kind]} a{number}" for number, kind in enumerate(ARGUMENT_TYPES))
    loops = "".join(LOOP % (kernel, declared, kernel, names) for kernel in KERNELS.values())
    source, library = folder / "surface.cpp", folder / "surface.so"
    source.write_text(HOST % BLOCK + SOURCE + loops)
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-Wall", "-Werror", str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def write_with(library: Any, slot: NDArray[np.uint8], surface: Surface, letterbox: Letterbox) -> None:
    """Run the kernel into a slot."""
    values, kinds = arguments(slot.ctypes.data, surface, letterbox)
    function = getattr(library, f"{KERNELS[surface.sample_bytes]}_everywhere")
    function.argtypes = (ctypes.c_int, ctypes.c_int, *kinds)
    function.restype = None
    function(*grid(letterbox), *values)


def reference(surface: Surface, letterbox: Letterbox) -> NDArray[np.uint8]:
    """Return the expected content of the slot: uint8 [H, W, 3]."""
    luma, chroma = (plane.astype(np.float64) / (1 if plane.itemsize == 1 else 256) for plane in surface.owner)  # type: ignore[attr-defined]
    content = letterbox.content
    light, u, v = _resized(luma, content), _resized(chroma[:, :, 0], content, 0.25), _resized(chroma[:, :, 1], content, 0.25)
    zero, gain, red_v, green_u, green_v, blue_u = coefficients(surface.matrix, surface.full_range)
    light, u, v = (light - zero) * gain, u - 128, v - 128
    rgb = np.stack([light + red_v * v, light + green_u * u + green_v * v, light + blue_u * u], axis=2)
    slot = np.empty((letterbox.input.height, letterbox.input.width, 3), np.uint8)
    slot[:] = letterbox.fill
    place = slot[letterbox.y : letterbox.y + content.height, letterbox.x : letterbox.x + content.width]
    place[:] = np.floor(np.clip(rgb, 0, 255) + 0.5).clip(0, 255)
    return slot


def _resized(plane: NDArray[np.float64], size: Size, shift: float = 0.0) -> NDArray[np.float64]:
    across = _weights(plane.shape[1], size.width, shift)
    result: NDArray[np.float64] = _weights(plane.shape[0], size.height) @ plane @ across.T
    return result


def _weights(samples: int, pixels: int, shift: float = 0.0) -> NDArray[np.float64]:
    """Return the weight of each sample in each pixel [pixels, samples]; samples outside repeat the edge."""
    scale = samples / pixels
    reach = max(scale, 1.0)
    middles = (np.arange(pixels) + 0.5) * scale - 0.5 + shift
    margin = int(np.ceil(reach)) + 1
    places = np.arange(-margin, samples + margin)
    parts = np.clip(1 - np.abs(places[None] - middles[:, None]) / reach, 0, None)
    weights = np.zeros((pixels, samples))
    np.add.at(weights.T, places.clip(0, samples - 1), parts.T)
    weights /= weights.sum(1, keepdims=True)
    return weights
