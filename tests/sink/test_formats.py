"""A new kind of output is one module and one entry in the table of formats."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import media
from vision_infer.config.run import run_settings
from vision_infer.core.errors import UsageError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.pipeline.runs import offline
from vision_infer.pipeline.runs.outputs import plan_outputs
from vision_infer.sink.formats import DETECT, FORMATS, OutputFormat
from vision_infer.sink.sink import OutputSpec, SinkStream, Written
from vision_infer.stream.source import SourceSpec

# What follows is all that a toy sink needs.


def open_sink(spec: OutputSpec, stream: SinkStream) -> CountSink:
    return CountSink(spec.path, stream.name)


class CountSink:
    """Writes the number of detections of each frame."""

    needs_images = False

    def __init__(self, path: str, stream: str) -> None:
        self._path = path
        self._lines = [stream]
        self.outputs: Sequence[Written] = ()

    def write(self, frame: Frame, result: Result | None) -> None:
        self._lines.append(f"{frame.index}: {0 if result is None else len(result.detections)}")

    def close(self, complete: bool) -> None:
        if complete and not self.outputs:
            Path(self._path).parent.mkdir(exist_ok=True)
            Path(self._path).write_text("\n".join(self._lines))
            self.outputs = [Written(self._path)]


COUNTS = OutputFormat("counts", __name__, "counts", file="table of counts", tasks=DETECT)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    FORMATS.append(COUNTS)
    yield
    FORMATS.remove(COUNTS)


def test_a_toy_sink_runs(tmp_path: Path) -> None:
    shutil.copy(media.clip(media.Clip(frames=5)), tmp_path / "clip.mp4")
    settings = run_settings(
        sources=(str(tmp_path / "clip.mp4"),),
        engine="null",
        out=(str(tmp_path / "a.counts"), f"{tmp_path}/all/"),
        formats=("counts",),
    )
    summary = offline.run(settings, threading.Event())
    lines = (tmp_path / "a.counts").read_text().splitlines()
    assert lines[0] == "clip"
    assert [line.split(":")[0] for line in lines[1:]] == ["0", "1", "2", "3", "4"]
    assert (tmp_path / "all" / "clip.counts").read_text().splitlines() == lines
    assert summary.frames == 5


def test_a_toy_sink_has_the_usual_errors(tmp_path: Path) -> None:
    clips = [SourceSpec(name, "video", (f"/{name}.mp4",)) for name in "ab"]
    with pytest.raises(UsageError, match="one table of counts cannot hold 2 sources"):
        plan_outputs([str(tmp_path / "a.counts")], clips, False)
    with pytest.raises(UsageError, match="unknown format") as caught:
        plan_outputs([str(tmp_path / "a.xyz")], clips, False)
    assert ".counts" in caught.value.hint
