"""Sources and frames for the tests of decoding on a GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from tests.support import media
from tests.support.device_frames import count_whole_frames
from vision_infer.stream import nvdec
from vision_infer.stream.find import open_source
from vision_infer.stream.source import Decode, SourceSpec


@pytest.fixture(autouse=True)
def whole_frames(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes of the frames that FFmpeg would copy from the GPU as a whole."""
    return count_whole_frames(monkeypatch)


def spec_of(path: Path, decode: Decode = "auto", gpu: int | None = None, **more: Any) -> SourceSpec:
    return SourceSpec("clip", "video", (str(path),), decode=decode, gpu=gpu, **more)


def read_images(spec: SourceSpec) -> tuple[list[NDArray[np.uint8]], list[str], str]:
    with open_source(spec) as source:
        found = [frame.image.to_rgb() for frame in source.frames()]
        assert source.report.gaps == 0
        return found, source.report.warnings, source.info.decoder


@pytest.fixture
def frame() -> av.VideoFrame:
    return media.decoded(media.clip(media.H264))[3]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as if FFmpeg found each requested GPU."""
    monkeypatch.setattr(nvdec, "_problem", lambda spec, gpu: nvdec._failed.get(nvdec._key(spec), ""))
    monkeypatch.setattr(nvdec, "_failed", type(nvdec._failed)())


def context(**more: Any) -> VideoCodecContext:
    values = {"is_hwaccel": True, "name": "h264", "width": 1920, "height": 1080, "profile": "High", "thread_count": 4, **more}
    return cast("VideoCodecContext", SimpleNamespace(**values))


def away(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the mean difference."""
    assert found.shape == expected.shape
    return float(np.abs(found.astype(int) - expected).mean())
