"""Changes of streams that are rejected leave everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.pipeline.live_fakes import Camera
from tests.service.site import Engines, Keeper, Site, engines, settings, wanted
from tests.support.waiting import wait_until
from vision_infer.core.errors import EngineError, OutputError, UsageError, VisionInferError
from vision_infer.pipeline.status import StreamState
from vision_infer.service.errors import ConflictError, UnknownStreamError

__all__ = ["engines"]

S = StreamState


def test_conflicts_are_reported_and_change_nothing(engines: Engines) -> None:
    file, made = Camera(0), Camera(1)
    of = settings({"s0": wanted(file)}, service={"max_streams": 2})
    with Site(file, made, of=of) as site:
        site.service.create("s1", wanted(made))
        conflicts: tuple[Callable[[], object], ...] = (
            lambda: site.service.create("s0", wanted(made)),
            lambda: site.service.create("s1", wanted(made)),
            lambda: site.service.create("s2", wanted(made)),
            lambda: site.service.replace("s0", wanted(made)),
            lambda: site.service.delete("s0"),
        )
        for what in conflicts:
            with pytest.raises(ConflictError):
                what()
        unknown: tuple[Callable[[], object], ...] = (
            lambda: site.service.replace("s9", wanted(made)),
            lambda: site.service.delete("s9"),
            lambda: site.service.stream("s9"),
            lambda: site.service.snapshot("s9", False, 1),
        )
        for what in unknown:
            with pytest.raises(UnknownStreamError):
                what()
        site.give(file)
        site.give(made)
        assert (file.attempts, made.attempts) == (1, 1)
        assert set(site.keep.kept) == {"s1"}


def test_the_settings_file_takes_precedence_at_the_start(engines: Engines) -> None:
    file, kept = Camera(0, path="rtsp://file/"), Camera(0, path="rtsp://kept/")
    with Site(file, kept, of=settings({"s0": wanted(file)}), keep=Keeper({"s0": wanted(kept)})) as site:
        site.give(file)
        assert kept.attempts == 0
        assert set(site.keep.kept) == {"s0"}


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"model": "nonsense"}, UsageError),
        ({"model": "some.onnx"}, UsageError),
        ({"model": "broken"}, EngineError),
        ({"classes": ["unicorn"]}, UsageError),
        ({"model": "two", "classes": ["unicorn"]}, UsageError),
        ({"per_class": {"unicorn": 0.5}}, UsageError),
        ({"hook": "no_such_module:hook"}, UsageError),
        ({"model": "classes", "secondary": "classes"}, UsageError),
        ({"secondary": "two"}, UsageError),
        ({"secondary": "classes", "track": True, "reidentify": {}}, UsageError),  # it has no embeddings
        ({"sample": {}}, UsageError),  # the service has no folder for them
        ({"zones": {"z": {"polygon": [[0, 0], [9, 0], [9, 9]], "classes": ["unicorn"]}}}, UsageError),
    ],
    ids=lambda value: str(value)[:30],
)
def test_invalid_settings_over_the_api_are_rejected_and_not_stored(
    engines: Engines, more: dict[str, Any], error: type[VisionInferError]
) -> None:
    camera = Camera(0)
    with Site(camera) as site:
        with pytest.raises(error):
            site.service.create("s0", wanted(camera, **more))
        assert site.service.streams() == []
        assert site.keep.kept == {}
        assert engines.loaded == {"one"}
        site.service.create("s0", wanted(camera))
        site.give(camera, 2)
        with pytest.raises(error):
            site.service.replace("s0", wanted(camera, **more))
        site.give(camera, 2)
        assert camera.attempts == 1
        assert site.service.stream("s0").settings == site.keep.kept["s0"] == wanted(camera)
        assert engines.loaded == {"one"}


def test_a_secondary_model_requires_a_detector(engines: Engines) -> None:
    camera, good = Camera(0), Camera(1)
    of = settings({"s0": wanted(camera, model="classes", secondary="two"), "s1": wanted(good, secondary="classes")})
    with Site(camera, good, of=of) as site:
        reason = "secondary: classes is a model for 'classify' and has no detections"
        assert reason in site.wait_state("s0", S.FAILED).reason
        assert camera.attempts == 0
        assert "two" not in engines.opened
        site.wait_state("s1", S.CONNECTING)


def test_identities_are_not_shared_with_other_processes(engines: Engines) -> None:
    camera, other = Camera(0), Camera(1)
    more = {"secondary": "classes", "track": True, "reidentify": {"across": True}}
    with Site(camera, other, of=settings({"s0": wanted(camera, **more)}), alone=False) as site:
        reason = "reidentify.across: the cameras run in several processes or nodes, which share no identities"
        assert reason in site.wait_state("s0", S.FAILED).reason
        with pytest.raises(UsageError, match="share no identities"):
            site.service.create("s1", wanted(other, **more))
        assert engines.loaded == {"one"}


@pytest.mark.parametrize("change", ["create", "replace", "replace url", "replace model", "delete"])
def test_a_full_disk_leaves_the_streams_unchanged(engines: Engines, change: str) -> None:
    camera, other = Camera(0), Camera(1)
    elsewhere = Camera(0, path="rtsp://elsewhere/")
    with Site(camera, other, elsewhere) as site:
        if change != "create":
            site.service.create("s0", wanted(camera, weight=3))
            site.give(camera, 2)
        site.keep.full = True
        kept = dict(site.keep.kept)
        changes: dict[str, Callable[[], object]] = {
            "create": lambda: site.service.create("s0", wanted(camera, model="two", clips={})),
            "replace": lambda: site.service.replace("s0", wanted(camera, weight=5)),
            "replace url": lambda: site.service.replace("s0", wanted(elsewhere)),
            "replace model": lambda: site.service.replace("s0", wanted(camera, model="two")),
            "delete": lambda: site.service.delete("s0"),
        }
        with pytest.raises(OutputError):
            changes[change]()
        assert site.keep.kept == kept
        assert engines.loaded == {"one"}
        if change == "create":
            assert site.service.streams() == []
            assert site.service.clips.tap("s0")._settings is None
            wait_until(lambda: all(connection.closed.is_set() for connection in camera.opened))
        else:
            site.give(camera, 2)
            status = site.status("s0")
            assert (status.state, status.weight, status.model) == (S.LIVE, 3, "one")
            assert site.service.stream("s0").settings == wanted(camera, weight=3)
        site.keep.full = False
        if change == "create":
            site.service.create("s0", wanted(camera))
        site.service.delete("s0")
        assert site.service.streams() == []
