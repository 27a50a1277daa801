"""A candidate model gets live frames in spare capacity, is compared with the current model, and can be promoted."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.pipeline.fakes import SIDE
from tests.pipeline.live_fakes import Camera
from tests.service.site import CountedEngine, Engines, Site, engines, settings, wanted
from tests.support.waiting import wait_until
from vision_infer.config.actions.sample import SampleStoreSettings
from vision_infer.config.service.result_files import ResultsSettings
from vision_infer.config.service.shadow import ShadowSettings
from vision_infer.config.sinks import SinksSettings
from vision_infer.core.errors import EngineError, ModelError, OutputError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.engine.open import EngineRequest
from vision_infer.service.errors import ConflictError, UnknownStreamError
from vision_infer.service.results.sinks import SinkSet
from vision_infer.service.shadow import candidate, shadow
from vision_infer.service.shadow.trial import ShadowStatus

__all__ = ["engines"]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch, engines: Engines) -> SimpleNamespace:
    """Fake candidates, and spare capacity that a test controls."""
    control = SimpleNamespace(shortage="")

    def inputs(model: str, folder: Path | None) -> dict[Size, Path]:
        if model == "missing":
            raise ModelError("unknown model 'missing'")
        return {Size(SIDE, SIDE): Path(model)}

    # Together with other tests, which load all cores, what has the lowest priority can wait for minutes.
    monkeypatch.setattr(os, "setpriority", lambda *_: None)
    monkeypatch.setattr(candidate, "CHILD", "tests.service.shadow_candidate")
    monkeypatch.setattr(shadow, "model_inputs", inputs)
    monkeypatch.setattr(shadow.Shadow, "_shortage", lambda self, own_cores: control.shortage)
    return control


def status_of(site: Site) -> ShadowStatus:
    status = site.service.shadow.status()
    assert status is not None
    return status


def compare(site: Site, camera: Camera, model: str = "two", **more: Any) -> None:
    """Start a candidate and wait until it is loaded."""
    site.service.shadow.put(ShadowSettings(model=model, **more))
    wait_until(lambda: status_of(site).state != "loading", "the candidate")


def test_every_nth_frame_is_compared(engines: Engines) -> None:
    camera, other = Camera(0), Camera(1)
    with Site(camera, other, of=settings({"s0": wanted(camera), "s1": wanted(other)})) as site:
        compare(site, camera, streams=("s0",), every=2)
        site.give(other, 4)
        for number in range(1, 9):
            site.give(camera)
            wait_until(lambda: status_of(site).total.frames == number // 2, "the comparison")  # noqa: B023
        status = status_of(site)
    assert (status.state, status.engine, status.current, dict(status.skipped)) == ("comparing", "echo-cpu-none", "one", {})
    # The candidate finds nothing in the frames 3 and 7, and its scores are lower.
    total = status.total
    assert (total.frames, total.current, total.candidate, total.found_again, total.iou) == (4, 4, 2, 2, 2.0)
    assert total.score_change == pytest.approx(-0.2, abs=1e-6)
    assert status.recent == total


def test_frames_on_which_the_candidate_differs_are_samples(engines: Engines, tmp_path: Path) -> None:
    camera = Camera(0)
    store = SampleStoreSettings(dir=tmp_path / "samples", keep_free_mb=0)
    sinks = SinkSet(ResultsSettings(), SinksSettings(), tmp_path, samples=store)
    streams = {"s0": wanted(camera, sample={"pick": "disagree", "per_day": 5})}
    with Site(camera, of=settings(streams, samples=store), sink_set=sinks) as site:
        compare(site, camera, every=1)
        for number in range(1, 5):  # the candidate finds nothing in frame 3
            site.give(camera)
            wait_until(lambda: status_of(site).total.frames == number, "the comparison")  # noqa: B023
        wait_until(lambda: list((tmp_path / "samples/s0").glob("*.jpg")), "the sample")
    assert len(list((tmp_path / "samples/s0").glob("*.jpg"))) == 1


def test_a_configured_candidate_starts_with_the_service(engines: Engines) -> None:
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)}, shadow=ShadowSettings(model="two", every=1))) as site:
        wait_until(lambda: site.service.shadow.status() is not None, "the start")
        wait_until(lambda: status_of(site).state == "comparing", "the candidate")
        site.give(camera)
        wait_until(lambda: status_of(site).total.frames == 1, "the comparison")
        assert status_of(site).settings.model == "two"


def test_no_candidate_starts_in_a_service_that_stops(engines: Engines) -> None:
    with Site(of=settings(shadow=ShadowSettings(model="two"))) as site:
        pass
    site.service.shadow.begin()
    assert site.service.shadow.status() is None


def test_without_spare_capacity_the_candidate_gets_nothing(engines: Engines, fakes: SimpleNamespace) -> None:
    fakes.shortage = "the machine is 97% busy"
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)})) as site:
        compare(site, camera, every=1)
        site.give(camera, 5)
        status = status_of(site)
    assert (status.state, status.reason) == ("waiting", "the machine is 97% busy")
    assert (status.total.frames, status.skipped) == (0, {"no_capacity": 5})


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("broken", "broken: cannot be loaded. Choose another."),
        ("crashing", "the candidate's process crashed: SIGSEGV"),
        ("hanging", "the candidate hangs: it did not return a frame within 0.3 s"),
        ("failing", "5 frames in a row failed: there is no memory left"),
    ],
)
def test_a_candidate_that_fails_costs_the_cameras_nothing(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, model: str, reason: str
) -> None:
    if model == "hanging":
        monkeypatch.setattr(candidate, "ANSWER_S", 0.3)
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)})) as site:
        compare(site, camera, model, every=1)
        while status_of(site).state != "failed":
            site.give(camera)
        before = status_of(site).skipped
        site.give(camera, 20)
        status, stream = status_of(site), site.status("s0")
    assert status.reason == reason
    assert status.skipped == before
    assert (stream.results, stream.dropped, len(camera.opened)) == (stream.decoded, {}, 1)


def test_a_busy_candidate_holds_two_frames(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)})) as site:
        compare(site, camera, "hanging", every=1)
        site.give(camera, 20)
        status = status_of(site)
        threads = [thread for thread in threading.enumerate() if thread.name == "shadow"]
    assert status.skipped["busy"] >= 18
    assert len(threads) == 1
    assert not threads[0].is_alive()


def test_promoting_swaps_the_streams_of_the_current_model(engines: Engines, tmp_path: Path) -> None:
    cameras, file = [Camera(0), Camera(1), Camera(2)], tmp_path / "shadow.json"
    streams = {camera.name: wanted(camera, model=model) for camera, model in zip(cameras, (None, "three", "one"), strict=True)}
    with Site(*cameras, of=settings(streams), shadow_file=file) as site:
        for camera in cameras:
            site.give(camera)
        compare(site, cameras[0], every=1, streams=("s0", "s2"))
        site.service.shadow.promote()
        for camera in cameras:
            site.give(camera, 2)
        assert [site.status(camera.name).model for camera in cameras] == ["two", "three", "two"]
        assert [len(camera.opened) for camera in cameras] == [1, 1, 1]
        assert engines.loaded == {"two", "three"}
        status = status_of(site)
        assert (status.settings, status.current) == (ShadowSettings(model="one", every=1, streams=("s0", "s2")), "two")
        assert site.service.infer(png(), None, None, None).model == "two"

    cameras = [Camera(0), Camera(1), Camera(2)]
    with Site(*cameras, of=settings(streams), shadow_file=file) as site:  # after a restart
        for camera in cameras:
            site.give(camera)
        assert [site.status(camera.name).model for camera in cameras] == ["two", "three", "two"]
        wait_until(lambda: site.service.shadow.status() is not None, "the start")
        wait_until(lambda: status_of(site).state == "comparing", "the candidate")
        site.service.shadow.promote()
        for camera in cameras:
            site.give(camera)
        assert [site.status(camera.name).model for camera in cameras] == ["one", "three", "one"]
        assert status_of(site).settings.model == "two"
        site.service.shadow.delete()
    with Site(of=settings(streams | {"s0": streams["s1"]}), shadow_file=file) as site:
        assert site.service.shadow.status() is None
        assert site.service._lanes.replacements == {}


def png() -> bytes:
    import cv2

    return cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes()


def test_promoting_swaps_the_engine_of_the_same_model(engines: Engines, tmp_path: Path) -> None:
    wanted_engines: list[str] = []
    plain = engines.open

    def open_it(path: Path, request: EngineRequest, on_message: Any) -> CountedEngine:
        wanted_engines.append(request.engine)
        return plain(path, request, on_message)

    engines.open = open_it  # type: ignore[method-assign]
    camera, candidate = Camera(0), ShadowSettings(model="one", engine="echo-cpu-int8", every=1)
    with Site(camera, of=settings({"s0": wanted(camera)}, shadow=candidate), shadow_file=tmp_path / "shadow.json") as site:
        wait_until(lambda: site.service.shadow.status() is not None and status_of(site).state == "comparing", "the candidate")
        site.give(camera)
        site.service.shadow.promote()
        site.give(camera)
        assert (site.status("s0").lane, status_of(site).current) == ("one on echo-cpu-int8", "one on echo-cpu-int8")
        assert (status_of(site).settings.model, status_of(site).settings.engine) == ("one", None)
        with pytest.raises(ConflictError, match="one on echo-cpu-int8 is the current model"):
            site.service.shadow.put(candidate)
        wait_until(lambda: status_of(site).state == "comparing", "the candidate")
        site.service.shadow.promote()
        site.give(camera)
        assert (site.status("s0").lane, status_of(site).settings, len(camera.opened)) == ("one", candidate, 1)
    assert wanted_engines == ["auto", "echo-cpu-int8", "auto"]


@pytest.mark.parametrize(
    "more",
    [
        {"classes": ["person", "car"]},
        {"per_class": {"car": 0.5}},
        {"zones": {"yard": {"polygon": [[0, 0], [9, 0], [9, 9]], "units": "pixels", "classes": ["car"]}}},
    ],
)
def test_promotion_is_refused_if_a_stream_needs_other_classes(engines: Engines, more: dict[str, Any]) -> None:
    plain = engines.open

    def open_it(*given: Any) -> CountedEngine:
        engine = plain(*given)
        if engine.card.name == "two":
            engine.card = engine.card.model_copy(update={"labels": ("person",)})
        return engine

    engines.open = open_it  # type: ignore[method-assign, assignment]
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera, **more)})) as site:
        with pytest.raises(ConflictError, match="stream s0 cannot run with two: unknown class 'car' for two"):
            site.service._streams.promote("one", "two")
        site.give(camera)
        assert site.status("s0").model == "one"
        assert engines.loaded == {"one"}


def test_a_refused_candidate_continues_in_the_shadow(engines: Engines) -> None:
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)})) as site:
        compare(site, camera)

        def refuse(model: str) -> None:
            raise EngineError("there is no memory left", "Free some.")

        engines.before_open = refuse
        with pytest.raises(ConflictError, match="two cannot be loaded: there is no memory left"):
            site.service.shadow.promote()
        site.give(camera)
        assert site.status("s0").model == "one"
        assert status_of(site).settings.model == "two"


def test_a_promotion_that_cannot_be_stored_is_undone(engines: Engines, tmp_path: Path) -> None:
    camera, file = Camera(0), tmp_path / "state" / "shadow.json"
    with Site(camera, of=settings({"s0": wanted(camera)}), shadow_file=file) as site:
        compare(site, camera)
        file.unlink()
        file.parent.rmdir()
        file.parent.write_text("a file in place of the folder")
        with pytest.raises(OutputError, match="cannot be stored"):
            site.service.shadow.promote()
        site.give(camera)
        assert site.status("s0").model == "one"
        assert site.service._lanes.replacements == {}


def test_invalid_candidates_are_refused(engines: Engines) -> None:
    camera, other = Camera(0), Camera(1)
    with Site(camera, other, of=settings({"s0": wanted(camera), "s1": wanted(other, model="three")})) as site:
        put = site.service.shadow.put
        with pytest.raises(ConflictError, match="one is the current model"):
            put(ShadowSettings(model="one"))
        with pytest.raises(ConflictError, match="run different models: one, three"):
            put(ShadowSettings(model="two", streams=("s0", "s1")))
        with pytest.raises(UnknownStreamError, match="stream s7 does not exist"):
            put(ShadowSettings(model="two", streams=("s7",)))
        with pytest.raises(UsageError, match="unknown model"):
            put(ShadowSettings(model="missing"))
        with pytest.raises(UsageError, match="names only"):
            put(ShadowSettings(model="/etc/model.onnx"))
        with pytest.raises(ConflictError, match="there is no shadow model"):
            site.service.shadow.promote()
