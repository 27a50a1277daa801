"""The tone in decoded sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np


def tone_hz(frames: Sequence[Any]) -> float:
    """Return the strongest frequency of the first channel of decoded frames, Hz."""
    parts = []
    for frame in frames:
        samples = frame.to_ndarray().astype(np.float64)
        channels = len(frame.layout.channels)
        parts.append(samples[0] if frame.format.is_planar else samples.reshape(-1, channels)[:, 0])
    wave = np.concatenate(parts)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return float(np.argmax(spectrum[5:]) + 5) * float(frames[0].sample_rate) / len(wave)


def sound_of(path: Path) -> tuple[float, float, float]:
    """Return the begin and the end of the sound of a file, seconds, and its strongest frequency, Hz."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    first, last = frames[0], frames[-1]
    return float(first.time or 0), float(last.time or 0) + last.samples / last.sample_rate, tone_hz(frames[2:])
