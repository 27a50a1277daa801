"""The interface between the pipeline and the sinks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.description import Description
from vision_infer.core.detections import Detections, LabelText
from vision_infer.core.frame import Frame
from vision_infer.core.image import Image
from vision_infer.core.result import Result
from vision_infer.sink.live_sound import LiveSound

Draw = Callable[[NDArray[np.uint8], Detections, Description | None], NDArray[np.uint8]]
"""Draws results onto an image, uint8 [H, W, 3] RGB."""


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The description of a sink to open: a plain value, so that it can go to another process."""

    kind: str
    """The kind of output, one of :data:`vision_infer.sink.formats.FORMATS`."""
    path: str
    """The file; ``-`` is standard output; for ``images`` the file or the folder of the images; for ``crops`` the folder."""
    overwrite: bool = False
    rotate_bytes: int | None = None
    """The maximum size of a file of ``jsonl``, which then goes on in a new one; None: unlimited."""
    fps: float | None = None
    """The maximum frame rate of ``video``; None: that of the source."""
    height: int | None = None
    """The height of ``video``, pixels; None, or more than that of the source: that of the source."""
    labels: LabelText | None = None
    """The text at the boxes of ``video`` and ``images``: ``scores``, ``names`` or ``none``; None: ``scores``."""
    resume: bool = False
    """Whether ``jsonl`` and ``csv`` continue the temporary file of an earlier run, if there is one."""
    numbered: bool = False
    """Whether ``coco`` uses the numbers in the names of the images."""
    sample: str | None = None
    """The choice of the frames of a dataset: ``uncertain``, ``diverse``, ``disagree`` or ``every:N``; None: all frames."""
    samples: int | None = None
    """The maximum number of chosen frames; None: the default of the choice."""
    file_names: Mapping[str, str] = field(default_factory=dict)
    """The file names of single images by stream, for ``coco``."""


@dataclass(frozen=True, slots=True)
class SinkStream:
    """The stream that a sink is opened for; a sink of all streams uses only the defaults."""

    make_draw: Callable[[LabelText], Draw]
    """A function that makes the annotator, from :attr:`OutputSpec.labels`."""
    name: str = "all"
    """The name of the stream."""
    sound_from: str | LiveSound | None = None
    """The file with the sound of the stream, or the sound of a live stream; None: it has no sound."""
    frame_rate: Fraction | None = None
    """The frame rate of the stream, frames per second."""
    time_base: Fraction | None = None
    """The time base of the stream, seconds."""
    difference: Callable[[Result, Image], tuple[float, float]] | None = None
    """For the samples ``disagree`` of a dataset: returns how much another model differs."""


@dataclass(frozen=True, slots=True)
class Written:
    """A finished file of a sink, or a folder with finished files."""

    path: str
    how: str = ""
    """A remark for people, such as the encoder of a video."""


class Sink(Protocol):
    """Writes the results of one stream, or of all. One thread at a time calls it."""

    @property
    def needs_images(self) -> bool:
        """Whether it draws: it then gets every frame of the stream, also those without inference."""
        ...

    @property
    def outputs(self) -> Sequence[Written]:
        """The files that are finished; all of them once the sink is closed."""
        ...

    def write(self, frame: Frame, result: Result | None) -> None:
        """Write the next frame, in the order of the stream; ``result`` is None for a frame without inference.

        Raises:
            OutputError: It cannot be written.
        """
        ...

    def close(self, complete: bool) -> None:
        """Finish: all that was written is whole and has its name afterwards. Further calls do nothing.

        Args:
            complete: Whether the stream was read to its end, not stopped before.

        Raises:
            OutputError: It cannot be finished.
        """
        ...
