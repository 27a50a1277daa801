"""A real candidate model in the shadow of the real current one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import media
from tests.support.media import ROOT
from tests.support.waiting import wait_until
from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.config.service.shadow import ShadowSettings
from vision_infer.pipeline.status import StreamStatus
from vision_infer.service.service import Service
from vision_infer.service.shadow.shadow import Shadow
from vision_infer.service.shadow.trial import ShadowStatus


def status_of(service: Service) -> ShadowStatus:
    status = service.shadow.status()
    assert status is not None
    assert status.state != "failed", status.reason
    return status


def yard(service: Service) -> StreamStatus:
    status = service.stream("yard").status
    assert status is not None
    return status


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServeSettings:
    """A looping file, and a copy of the bundled model with another name."""
    monkeypatch.setattr(Shadow, "_shortage", lambda self, own_cores: "")  # the machine of the tests may be busy
    shutil.copytree(ROOT / "models" / "nanodet-416", tmp_path / "models" / "copied")
    video = str(media.excerpt(0, 100, 640, 360))
    stream = StreamSettings.model_validate({"detect": video, "loop": True, "fps": 4, "track": True, "max_age_ms": 5000})
    return ServeSettings(
        model="nanodet-416",
        engine="onnxruntime-cpu-fp32",
        model_dir=tmp_path / "models",
        engine_dir=tmp_path / "engines",
        state_dir=tmp_path / "state",
        streams={"yard": stream},
    )


def compare(service: Service, candidate: ShadowSettings) -> ShadowStatus:
    """Compare some frames."""
    # The model has a second graph for wide images, which is loaded for the first of them.
    wait_until(lambda: any(lane.name != "nanodet-416" and lane.frames for lane in service.lanes()), "the second lane")
    service.shadow.put(candidate)
    wait_until(lambda: status_of(service).total.frames >= 8, "compared frames")
    return status_of(service)


@pytest.mark.slow
def test_a_copy_of_the_model_agrees_completely_and_takes_over(settings: ServeSettings, tmp_path: Path) -> None:
    with Service(settings, shadow_file=tmp_path / "shadow.json") as service:
        service.start()
        total = compare(service, ShadowSettings(model="copied", every=1)).total
        assert total.current == total.candidate == total.found_again > 0
        assert total.iou == pytest.approx(total.found_again, rel=1e-3)
        assert total.score_change == pytest.approx(0, abs=0.01)
        assert min(total.times) > 0
        assert status_of(service).engine == "onnxruntime-cpu-fp32"
        service.shadow.promote()
        wait_until(lambda: yard(service).lane == "copied", "the promoted model")
        before = yard(service).results
        wait_until(lambda: yard(service).results > before, "results of the promoted model")
        assert yard(service).reconnects == 0
    with Service(settings, shadow_file=tmp_path / "shadow.json") as service:
        service.start()
        wait_until(lambda: service.stream("yard").status is not None and yard(service).lane == "copied", "the promoted model")
        wait_until(lambda: service.shadow.status() is not None, "the shadow model")
        wait_until(lambda: status_of(service).state == "comparing", "the previous model in the shadow")
        service.shadow.promote()
        wait_until(lambda: yard(service).lane == "nanodet-416", "the previous model")
        assert yard(service).reconnects == 0


@pytest.mark.slow
def test_the_int8_engine_agrees_mostly_and_takes_over(settings: ServeSettings) -> None:
    with Service(settings) as service:
        service.start()
        status = compare(service, ShadowSettings(model="nanodet-416", engine="onnxruntime-cpu-int8", every=1))
        assert status.engine == "onnxruntime-cpu-int8"
        assert status.total.found_again > 0.7 * status.total.current > 0
        service.shadow.promote()
        wait_until(lambda: yard(service).engine == "onnxruntime-cpu-int8", "the promoted engine")
        assert yard(service).reconnects == 0
