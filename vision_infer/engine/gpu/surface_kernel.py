"""The kernel that converts a decoded frame in the memory of a GPU to RGB in an engine's slot, resized and letterboxed.

Each pixel of the slot is a weighted mean of the samples that it covers: a triangle filter as wide as a pixel of the result when
the frame shrinks, and bilinear interpolation when it grows, like FFmpeg's scaler with BILINEAR. Chroma samples are on the left
columns and between the rows, as in nearly all video. Samples outside the frame repeat its edge.

The source is plain C++ with a few keywords of CUDA, so that it can be compiled and tested without a GPU.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Letterbox
from vision_infer.core.image import Surface

BLOCK = (32, 8)
"""The threads of a block, x and y."""
KERNELS = {1: "write_nv12", 2: "write_p010"}
"""The kernels by bytes of a sample."""

SOURCE = r"""
struct Plane { const unsigned char* rows; int pitch; int width; int height; };

// One axis: which samples a pixel covers, and the weight of each. Positions are in samples, 0 is the middle of the first one.
struct Span {
    float middle, reach;
    int first, last;
    __device__ Span(int pixel, int pixels, int samples, float shift) {
        float scale = (float)samples / (float)pixels;
        middle = (pixel + 0.5f) * scale - 0.5f + shift;
        reach = scale > 1.0f ? scale : 1.0f;
        first = (int)ceilf(middle - reach);
        last = (int)floorf(middle + reach);
    }
    __device__ float weight(int sample) const {
        float away = sample - middle;
        return 1.0f - (away < 0 ? -away : away) / reach;
    }
};

__device__ inline int inside(int sample, int samples) { return sample < 0 ? 0 : sample < samples ? sample : samples - 1; }

// The mean of COUNT interleaved channels. Samples of 16 bits count in 256ths, so that both kinds span 0 to 255.
template <typename Sample, int COUNT>
__device__ inline void mean(const Plane& plane, const Span& x, const Span& y, float* result) {
    const float unit = sizeof(Sample) == 1 ? 1.0f : 1.0f / 256.0f;
    float whole = 0.0f;
    for (int channel = 0; channel < COUNT; channel++) result[channel] = 0.0f;
    for (int row = y.first; row <= y.last; row++) {
        const Sample* samples = (const Sample*)(plane.rows + (long long)inside(row, plane.height) * plane.pitch);
        for (int column = x.first; column <= x.last; column++) {
            float weight = x.weight(column) * y.weight(row);
            const Sample* sample = samples + inside(column, plane.width) * COUNT;
            for (int channel = 0; channel < COUNT; channel++) result[channel] += weight * (float)sample[channel];
            whole += weight;
        }
    }
    for (int channel = 0; channel < COUNT; channel++) result[channel] *= unit / whole;
}

__device__ inline unsigned char byte(float value) {
    return (unsigned char)(value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : value + 0.5f);
}

template <typename Sample>
__device__ inline void write(
    unsigned char* slot, int width, int height, const unsigned char* luma, int luma_pitch, const unsigned char* chroma,
    int chroma_pitch, int source_width, int source_height, int left, int top, int content_width, int content_height,
    unsigned int fill, float luma_zero, float luma_gain, float red_v, float green_u, float green_v, float blue_u) {
    int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= width || row >= height) return;
    unsigned char* pixel = slot + ((long long)row * width + column) * 3;
    int x = column - left, y = row - top;
    if (x < 0 || y < 0 || x >= content_width || y >= content_height) {
        pixel[0] = fill & 255;
        pixel[1] = (fill >> 8) & 255;
        pixel[2] = (fill >> 16) & 255;
        return;
    }
    Plane brightness = {luma, luma_pitch, source_width, source_height};
    Plane color = {chroma, chroma_pitch, (source_width + 1) / 2, (source_height + 1) / 2};
    float light, uv[2];
    Span across(x, content_width, source_width, 0.0f), down(y, content_height, source_height, 0.0f);
    mean<Sample, 1>(brightness, across, down, &light);
    // A chroma sample lies on the left one of its two columns, a quarter of its width to the left of their middle.
    Span color_across(x, content_width, color.width, 0.25f), color_down(y, content_height, color.height, 0.0f);
    mean<Sample, 2>(color, color_across, color_down, uv);
    light = (light - luma_zero) * luma_gain;
    float u = uv[0] - 128.0f, v = uv[1] - 128.0f;
    pixel[0] = byte(light + red_v * v);
    pixel[1] = byte(light + green_u * u + green_v * v);
    pixel[2] = byte(light + blue_u * u);
}

#define KERNEL(NAME, SAMPLE) \
    extern "C" __global__ void NAME( \
        unsigned char* slot, int width, int height, const unsigned char* luma, int luma_pitch, const unsigned char* chroma, \
        int chroma_pitch, int source_width, int source_height, int left, int top, int content_width, int content_height, \
        unsigned int fill, float luma_zero, float luma_gain, float red_v, float green_u, float green_v, float blue_u) { \
        write<SAMPLE>(slot, width, height, luma, luma_pitch, chroma, chroma_pitch, source_width, source_height, left, top, \
                      content_width, content_height, fill, luma_zero, luma_gain, red_v, green_u, green_v, blue_u); \
    }
KERNEL(write_nv12, unsigned char)
KERNEL(write_p010, unsigned short)
"""

_KR_KB = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""The shares of red and blue in luma, by the matrix numbers of ISO/IEC 23001-8."""
_BT601 = (0.299, 0.114)

ARGUMENT_TYPES = (
    *(ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    *(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int),
    *(ctypes.c_int,) * 6,
    ctypes.c_uint,
    *(ctypes.c_float,) * 6,
)
"""The types of the kernel's arguments, in order."""


def coefficients(matrix: int, full_range: bool) -> tuple[float, float, float, float, float, float]:
    """Return the coefficients of YUV → RGB (ITU-R BT.601, BT.709, BT.2020).

    Args:
        matrix: The number of the matrix in ISO/IEC 23001-8; an unknown one counts as BT.601.
        full_range: Whether samples of 8 bits span 0–255 instead of 16–235 and 16–240.

    Returns:
        Luma's zero and gain, V in red, U in green, V in green, U in blue.
    """
    red, blue = _KR_KB.get(matrix, _BT601)
    green = 1.0 - red - blue
    luma_zero, luma_gain, gain = (0.0, 1.0, 255 / 127.5 / 2) if full_range else (16.0, 255 / 219, 255 / 224)
    red_v, blue_u = 2 * (1 - red) * gain, 2 * (1 - blue) * gain
    return luma_zero, luma_gain, red_v, -blue_u * blue / green, -red_v * red / green, blue_u


def arguments(address: int, surface: Surface, letterbox: Letterbox) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the values and types of the kernel's arguments, for a slot at an address."""
    red, green, blue = letterbox.fill
    values = (
        *(address, letterbox.input.width, letterbox.input.height),
        *(surface.luma, surface.luma_pitch, surface.chroma, surface.chroma_pitch),
        *(surface.size.width, surface.size.height, letterbox.x, letterbox.y),
        *(letterbox.content.width, letterbox.content.height),
        red | green << 8 | blue << 16,
        *coefficients(surface.matrix, surface.full_range),
    )
    return values, ARGUMENT_TYPES


def grid(letterbox: Letterbox) -> tuple[int, int]:
    """Return the number of blocks that cover a slot, x and y."""
    return -(-letterbox.input.width // BLOCK[0]), -(-letterbox.input.height // BLOCK[1])


@lru_cache(maxsize=4)
def compiled(architecture: str) -> bytes:
    """Return the compiled kernels for one kind of GPU.

    Args:
        architecture: The compute capability, such as ``sm_89``. For one that the compiler does not support yet, the result is
            PTX, which the GPU's driver translates.

    Raises:
        EngineError: NVRTC is not installed, or fails.
    """
    try:
        from cuda.bindings import nvrtc

        known = [int(number) for number in _done(nvrtc, nvrtc.nvrtcGetSupportedArchs())]
    except (ImportError, RuntimeError) as error:
        raise EngineError("NVRTC is not installed", "Run: pip install nvidia-cuda-nvrtc") from error
    number = int(architecture.removeprefix("sm_"))
    older = [version for version in known if version <= number]
    exact = number in known
    target = architecture if exact else f"compute_{max(older, default=min(known))}"
    program = _done(nvrtc, nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"surface.cu", 0, [], []))
    try:
        options = [f"--gpu-architecture={target}".encode(), b"--std=c++17"]
        status, *_ = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(status) != 0:
            log = bytearray(_done(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise EngineError(f"the kernel cannot be compiled for {target}: {bytes(log).decode(errors='replace').strip(chr(0))}")
        size = nvrtc.nvrtcGetCUBINSize if exact else nvrtc.nvrtcGetPTXSize
        content = bytearray(_done(nvrtc, size(program)))
        _done(nvrtc, (nvrtc.nvrtcGetCUBIN if exact else nvrtc.nvrtcGetPTX)(program, content))
        return bytes(content)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _done(nvrtc: Any, result: tuple[Any, ...]) -> Any:
    status, *values = result
    if int(status) != 0:
        raise EngineError(f"NVRTC: {nvrtc.nvrtcGetErrorString(status)[1]}")
    return values[0] if values else None
