"""Installed packages add hooks, outputs and heads by their names, as entry points."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import media
from vision_infer.config.run import run_settings
from vision_infer.core.errors import ModelError, UsageError
from vision_infer.model.heads import find_head, head_names, yolox
from vision_infer.pipeline.hooks.loading import load_hook
from vision_infer.pipeline.runs import offline
from vision_infer.pipeline.runs.outputs import OutputOptions, plan_outputs
from vision_infer.sink import formats
from vision_infer.stream.source import SourceSpec

MODULE = """
from dataclasses import replace
from pathlib import Path

from vision_infer.model.heads.yolox import DEFAULTS, append, recognize, reference
from vision_infer.sink.formats import OutputFormat
from vision_infer.sink.sink import Written

COUNTS = OutputFormat("any", __name__, "any", file="table of counts")

def mark(frame, result):
    return replace(result, extra={"marked": frame.index})

def open_sink(spec, stream):
    return Counts(spec.path)

class Counts:
    needs_images = False

    def __init__(self, path):
        self.path, self.lines, self.outputs = path, [], ()

    def write(self, frame, result):
        self.lines.append(f"{frame.index}: {result.extra}")

    def close(self, complete):
        Path(self.path).write_text("\\n".join(self.lines))
        self.outputs = [Written(self.path)]
"""
Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs a package with these entry points."""

    def of(entry_points: str) -> None:
        folder = tmp_path / "site-packages"
        info = folder / "toy_plugins-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / "toy_plugins.py").write_text(MODULE)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugins\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(str(folder))
        formats._added.cache_clear()

    yield of
    monkeypatch.undo()
    formats._added.cache_clear()


def test_a_package_adds_a_hook_and_an_output(install: Install, tmp_path: Path) -> None:
    install("[vision_infer.hooks]\nmark = toy_plugins:mark\n[vision_infer.sinks]\ncounts = toy_plugins:COUNTS\n")
    shutil.copy(media.clip(media.Clip(frames=3)), tmp_path / "clip.mp4")
    out = tmp_path / "a.counts"
    settings = run_settings(sources=(str(tmp_path / "clip.mp4"),), engine="null", hook=("mark",), out=(str(out),))
    summary = offline.run(settings, threading.Event())
    assert out.read_text().splitlines() == [f"{index}: {{'marked': {index}}}" for index in range(3)]
    assert summary.outputs == (str(out),)
    clips = [SourceSpec(name, "video", (f"/{name}.mp4",)) for name in "ab"]
    with pytest.raises(UsageError, match="one table of counts cannot hold 2 sources"):
        plan_outputs([str(out)], clips, False)
    with pytest.raises(UsageError, match="unknown format") as raised:
        plan_outputs([f"{tmp_path}/all/"], clips, False, OutputOptions(("xyz",)))
    assert "counts" in raised.value.hint


def test_a_package_adds_a_head(install: Install) -> None:
    with pytest.raises(ModelError, match="unknown head 'toyx'"):
        find_head("toyx")
    install("[vision_infer.heads]\ntoyx = toy_plugins\n")
    assert "toyx" in head_names()
    assert find_head("toyx").DEFAULTS == yolox.DEFAULTS
    assert find_head("yolox").__name__ == "vision_infer.model.heads.yolox"  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="Did you mean 'toyx'"):
        find_head("toyxx")


@pytest.mark.parametrize(
    ("entry_points", "use", "words"),
    [
        (
            "[vision_infer.hooks]\nmark = toy_gone:mark\n",
            lambda: load_hook("mark"),
            "mark of the package toy-plugins: importing",
        ),
        ("[vision_infer.hooks]\nmark = toy_plugins:COUNTS\n", lambda: load_hook("mark"), "hook mark: is not a function"),
        (
            "[vision_infer.hooks]\nother = toy_plugins:mark\n",
            lambda: load_hook("mark"),
            "no installed package has a hook",
        ),
        ("[vision_infer.sinks]\ncounts = toy_plugins\n", lambda: formats.format_by_suffix("counts"), "is not an OutputFormat"),
        ("[vision_infer.heads]\ntoyx = toy_plugins:mark\n", lambda: find_head("toyx"), "toyx: has no DEFAULTS"),
    ],
)
def test_wrong_entry_points_are_refused(install: Install, entry_points: str, use: Callable[[], Any], words: str) -> None:
    install(entry_points)
    with pytest.raises(UsageError, match=words):
        use()
