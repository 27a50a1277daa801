"""The kernels that read decoded frames in the memory of a GPU: RGB in an engine's slot or for the host, small YUV images for
encoders, and luma samples for the motion gate.

Each pixel of a resized image is a weighted mean of the samples that it covers: a triangle filter as wide as a pixel of the
result when the frame shrinks, and bilinear interpolation when it grows, like FFmpeg's scaler with BILINEAR. Chroma samples are on
the left columns and between the rows, as in nearly all video. Samples outside the part of the frame that is read repeat its edge.

The source is plain C++ with a few keywords of CUDA, so that it can be compiled and tested without a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Surface

BLOCK = (32, 8)
"""The threads of a block, x and y."""
KERNELS = ("write_rgb", "write_yuv420", "write_luma")
"""The names of the kernels: letterboxed RGB, planar YUV 4:2:0 in 8 bits, and single luma samples."""
MAX_TASKS = 32
"""The maximum number of frames of one launch: their table is an argument of the kernel, which has at most 4096 bytes."""

SOURCE = r"""
// What to read and where to write it; the same in Python.
struct Task {
    unsigned char* target;
    const unsigned char* luma;
    const unsigned char* chroma;
    int luma_pitch, chroma_pitch, sample_bytes;
    int x, y, source_width, source_height;  // the part of the frame that is read, pixels
    int width, height;                      // the target, pixels
    int left, top, content_width, content_height, step;
    unsigned int fill;
    float luma_zero, luma_gain, red_v, green_u, green_v, blue_u;
};
struct Tasks { Task task[MAX_TASKS]; };

// One axis: which samples a pixel covers, and the weight of each. Positions are in samples, 0 is the middle of the first one.
struct Span {
    float middle, reach;
    int first, last, least, most;
    __device__ Span(int pixel, int pixels, float start, float length, float shift, int least, int most)
        : least(least), most(most) {
        float scale = length / (float)pixels;
        middle = start + (pixel + 0.5f) * scale - 0.5f + shift;
        reach = scale > 1.0f ? scale : 1.0f;
        first = (int)ceilf(middle - reach);
        last = (int)floorf(middle + reach);
    }
    __device__ float weight(int sample) const {
        float away = sample - middle;
        return 1.0f - (away < 0 ? -away : away) / reach;
    }
    __device__ int inside(int sample) const { return sample < least ? least : sample > most ? most : sample; }
};
__device__ inline Span luma_span(int pixel, int pixels, int start, int length) {
    return Span(pixel, pixels, (float)start, (float)length, 0.0f, start, start + length - 1);
}
__device__ inline Span chroma_span(int pixel, int pixels, int start, int length, float shift) {
    return Span(pixel, pixels, start / 2.0f, length / 2.0f, shift, start / 2, (start + length - 1) / 2);
}

// The mean of COUNT interleaved channels. Samples of 16 bits count in 256ths, so that both kinds span 0 to 255.
template <typename Sample, int COUNT>
__device__ inline void mean(const unsigned char* rows, int pitch, const Span& x, const Span& y, float* result) {
    const float unit = sizeof(Sample) == 1 ? 1.0f : 1.0f / 256.0f;
    float whole = 0.0f;
    for (int channel = 0; channel < COUNT; channel++) result[channel] = 0.0f;
    for (int row = y.first; row <= y.last; row++) {
        const Sample* samples = (const Sample*)(rows + (long long)y.inside(row) * pitch);
        for (int column = x.first; column <= x.last; column++) {
            float weight = x.weight(column) * y.weight(row);
            const Sample* sample = samples + x.inside(column) * COUNT;
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
__device__ inline void rgb(const Task& t, int column, int row) {
    unsigned char* pixel = t.target + ((long long)row * t.width + column) * 3;
    int x = column - t.left, y = row - t.top;
    if (x < 0 || y < 0 || x >= t.content_width || y >= t.content_height) {
        pixel[0] = t.fill & 255;
        pixel[1] = (t.fill >> 8) & 255;
        pixel[2] = (t.fill >> 16) & 255;
        return;
    }
    float light, uv[2];
    mean<Sample, 1>(t.luma, t.luma_pitch, luma_span(x, t.content_width, t.x, t.source_width),
                    luma_span(y, t.content_height, t.y, t.source_height), &light);
    // A chroma sample is on the left one of its two columns, a quarter of its width to the left of their middle.
    mean<Sample, 2>(t.chroma, t.chroma_pitch, chroma_span(x, t.content_width, t.x, t.source_width, 0.25f),
                    chroma_span(y, t.content_height, t.y, t.source_height, 0.0f), uv);
    light = (light - t.luma_zero) * t.luma_gain;
    float u = uv[0] - 128.0f, v = uv[1] - 128.0f;
    pixel[0] = byte(light + t.red_v * v);
    pixel[1] = byte(light + t.green_u * u + t.green_v * v);
    pixel[2] = byte(light + t.blue_u * u);
}

// The planes Y, U and V, one after the other; width and height are even.
template <typename Sample>
__device__ inline void yuv420(const Task& t, int column, int row) {
    float light, uv[2];
    mean<Sample, 1>(t.luma, t.luma_pitch, luma_span(column, t.width, t.x, t.source_width),
                    luma_span(row, t.height, t.y, t.source_height), &light);
    long long pixels = (long long)t.width * t.height;
    t.target[(long long)row * t.width + column] = byte(light);
    if (column % 2 || row % 2) return;
    // The chroma samples of the result are on its left columns as well.
    float shift = 0.25f - 0.25f * t.source_width / t.width;
    mean<Sample, 2>(t.chroma, t.chroma_pitch, chroma_span(column / 2, t.width / 2, t.x, t.source_width, shift),
                    chroma_span(row / 2, t.height / 2, t.y, t.source_height, 0.0f), uv);
    unsigned char* place = t.target + pixels + (long long)(row / 2) * (t.width / 2) + column / 2;
    place[0] = byte(uv[0]);
    place[pixels / 4] = byte(uv[1]);
}

// Every step-th sample of every step-th row, the upper 8 bits.
template <typename Sample>
__device__ inline void luma(const Task& t, int column, int row) {
    const Sample* samples = (const Sample*)(t.luma + (long long)(t.y + row * t.step) * t.luma_pitch);
    t.target[(long long)row * t.width + column] = samples[t.x + column * t.step] >> (8 * sizeof(Sample) - 8);
}

#define KERNEL(NAME, FUNCTION) \
    extern "C" __global__ void NAME(const __grid_constant__ Tasks tasks) { \
        const Task& task = tasks.task[blockIdx.z]; \
        int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y; \
        if (column >= task.width || row >= task.height) return; \
        if (task.sample_bytes == 1) FUNCTION<unsigned char>(task, column, row); \
        else FUNCTION<unsigned short>(task, column, row); \
    }
KERNEL(write_rgb, rgb)
KERNEL(write_yuv420, yuv420)
KERNEL(write_luma, luma)
""".replace("MAX_TASKS", str(MAX_TASKS))

_KR_KB = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""The shares of red and blue in luma, by the matrix numbers of ISO/IEC 23001-8."""
_BT601 = (0.299, 0.114)


class Task(ctypes.Structure):
    """What to read and where to write it; the same in C."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("target", "luma", "chroma")),
        *((name, ctypes.c_int) for name in ("luma_pitch", "chroma_pitch", "sample_bytes")),
        *((name, ctypes.c_int) for name in ("x", "y", "source_width", "source_height", "width", "height")),
        *((name, ctypes.c_int) for name in ("left", "top", "content_width", "content_height", "step")),
        ("fill", ctypes.c_uint),
        *((name, ctypes.c_float) for name in ("luma_zero", "luma_gain", "red_v", "green_u", "green_v", "blue_u")),
    )


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


def rgb_task(address: int, surface: Surface, letterbox: Letterbox) -> Task:
    """Return the task of ``write_rgb``: a slot at an address, uint8 [H, W, 3]."""
    red, green, blue = letterbox.fill
    content = letterbox.content
    return Task(
        *_read(address, surface, letterbox.input),
        *(letterbox.x, letterbox.y, content.width, content.height, 1),
        red | green << 8 | blue << 16,
        *coefficients(surface.matrix, surface.full_range),
    )


def yuv420_task(address: int, surface: Surface, size: Size) -> Task:
    """Return the task of ``write_yuv420``: planes of an even size at an address, uint8 [1.5 H, W], in matrix and range of the
    frame."""
    return Task(*_read(address, surface, size))


def luma_task(address: int, surface: Surface, step: int) -> Task:
    """Return the task of ``write_luma``: every ``step``-th sample of every ``step``-th row at an address, uint8 [H, W]."""
    size = Size(-(-surface.size.width // step), -(-surface.size.height // step))
    return Task(*_read(address, surface, size), 0, 0, 0, 0, step)


def _read(address: int, surface: Surface, target: Size) -> tuple[int, ...]:
    return (
        *(address, surface.luma, surface.chroma, surface.luma_pitch, surface.chroma_pitch, surface.sample_bytes),
        *(surface.x, surface.y, surface.size.width, surface.size.height, target.width, target.height),
    )


def table(tasks: Sequence[Task]) -> ctypes.Array[Task]:
    """Return the argument of a kernel for 1 to ``MAX_TASKS`` tasks."""
    return (Task * MAX_TASKS)(*tasks)


def grid(tasks: Sequence[Task]) -> tuple[int, int, int]:
    """Return the number of blocks that cover the targets of all tasks: x, y, and one layer for each task."""
    width, height = max(task.width for task in tasks), max(task.height for task in tasks)
    return -(-width // BLOCK[0]), -(-height // BLOCK[1]), len(tasks)


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
            first, *_ = bytes(log).decode(errors="replace").strip("\0\n").splitlines() or [""]
            raise EngineError(f"the kernels cannot be compiled for {target}: {first}")
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
