"""Annotated still images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.opencv import cv2
from vision_infer.core.result import Result
from vision_infer.sink.files.output_file import OutputFile, output_error
from vision_infer.sink.sink import Draw, OutputSpec, SinkStream, Written


def open_sink(spec: OutputSpec, stream: SinkStream) -> ImagesSink:
    """Open the sink of a run."""
    return ImagesSink(spec, stream.make_draw(spec.labels or "scores"))


class ImagesSink:
    """Writes a JPEG for each image of a stream: ``spec.path`` is its file, or a folder for the images of a folder."""

    needs_images = True

    def __init__(self, spec: OutputSpec, draw: Draw) -> None:
        self._path = Path(spec.path)
        self._overwrite = spec.overwrite
        self._draw = draw
        self._written: set[str] = set()  # names; bounded by the list of the folder
        self._any = False

    @property
    def outputs(self) -> Sequence[Written]:
        """The file or folder, once there is an image."""
        return [Written(str(self._path))] if self._any else []

    def write(self, frame: Frame, result: Result | None) -> None:
        """Draw and write one image."""
        rgb = frame.image.to_rgb()
        if result is not None:
            rgb = self._draw(rgb, result.detections, result.description)
        path = self._path if frame.file is None else self._path / self._name(frame.file)
        write_jpeg(path, rgb, self._overwrite)
        self._any = True

    def _name(self, file: str) -> str:
        name = f"{Path(file).stem}.jpg"
        if name in self._written:  # a.png next to a.jpg
            name = f"{file}.jpg"
        self._written.add(name)
        return name

    def close(self, complete: bool) -> None:
        """Do nothing: every image is finished."""


def write_jpeg(path: Path, rgb: NDArray[np.uint8], overwrite: bool) -> None:
    """Write an image (uint8 [H, W, 3] RGB).

    Raises:
        OutputError: It exists already, or cannot be encoded or written.
    """
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise OutputError(f"{path}: the image cannot be encoded as JPEG", f"it is {rgb.shape[1]}x{rgb.shape[0]}")
    output = OutputFile(str(path), overwrite)
    try:
        view = memoryview(data.tobytes())
        while view:
            view = view[output.raw.write(view) :]
    except OSError as error:
        output.discard()
        raise output_error(path, error) from error
    output.commit()
