"""Hooks of a service: found next to the configuration, changed by a reload, and reported in the status."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.live_fakes import Camera
from tests.service.site import Engines, Site, engines
from vision_infer.config.serve import ServeSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.pipeline.status import StreamState
from vision_infer.service.processes.worker_settings import settings_from_plain, settings_to_plain

__all__ = ["engines"]
MODULE = """
from dataclasses import replace

def mark(frame, result):
    return replace(result, extra={"marked": True})

def fails(frame, result):
    raise KeyError("label")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of a configuration with a module."""
    (tmp_path / "near_the_file.py").write_text(MODULE)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("near_the_file", None)


def load(folder: Path, camera: Camera, hook: str) -> ServeSettings:
    path = folder / "cameras.yaml"
    path.write_text(f"model: one\nstreams:\n  s0: {{url: '{camera.path}', hook: 'near_the_file:{hook}'}}\n")
    return load_settings(path, [], {}, {})


def test_a_hook_is_found_next_to_the_file_and_changes_while_the_stream_runs(engines: Engines, folder: Path) -> None:
    camera = Camera(0)
    given = load(folder, camera, "mark")
    assert settings_from_plain(settings_to_plain(given)) == given, "worker processes use the same folder"
    with Site(camera, of=given) as site:
        site.give(camera, 2)
        hook = site.status("s0").hook
        assert hook is not None
        assert (hook.errors, hook.times.count) == (0, 2)
        site.service.reload(load(folder, camera, "fails"))
        site.give(camera, 2)
        hook = site.status("s0").hook
        assert hook is not None
        assert hook.errors == 2
        assert hook.error.startswith("near_the_file:fails: KeyError: 'label' (")
        assert camera.attempts == 1, "it stays connected"
    extras = [result.extra for _, _, result in site.sink.written if result is not None]
    assert extras == [{"marked": True}] * 2 + [None] * 2


def test_a_hook_that_does_not_exist_fails_its_stream_only(engines: Engines, folder: Path) -> None:
    camera = Camera(0)
    with Site(camera, of=load(folder, camera, "gone"), ready=False) as site:
        status = site.wait_state("s0", StreamState.FAILED)
        assert "near_the_file has no function gone" in (status.error or "")
        site.service.reload(load(folder, camera, "mark"))
        site.give(camera)
