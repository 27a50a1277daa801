"""A service on a GPU starts with ONNX Runtime, and gets a plan between two batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.graphs import tiny_graph
from tests.engine.stand_in_gpu import StandInGpu, stand_in_gpu
from tests.pipeline.live_fakes import Camera
from tests.pipeline.test_upgrade_on_gpu import ChildHere, child
from tests.service.site import Site, settings, wanted
from vision_infer.core.card import ModelCard
from vision_infer.precision import autotune_with_accuracy
from vision_infer.service.events import EngineEvent

__all__ = ["child", "stand_in_gpu"]


def test_a_service_continues_with_a_plan_in_fp32_if_too_few_frames_were_seen(
    stand_in_gpu: StandInGpu, child: ChildHere, tmp_path: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune_with_accuracy, "SAMPLES_WAIT_S", 0.0)
    graph = tiny_graph(tmp_path / "model.onnx", card)
    camera = Camera(0)
    given = settings({"s0": wanted(camera)}, engine_dir=tmp_path / "engines").model_copy(update={"model": str(graph)})
    with Site(camera, of=given) as site:
        site.give(camera)
        (lane,) = site.service.lanes()
        assert lane.engine == "onnxruntime-cpu-fp32"
        while not (events := [one for one in site.service.events() if isinstance(one, EngineEvent)]):
            camera.give()
        camera.give()
        (lane,) = site.service.lanes()
        assert lane.engine == "tensorrt-cuda-fp32"
    assert [(one.change, one.engine, one.reason) for one in events] == [
        ("swapped", "tensorrt-cuda-fp32", "replaces onnxruntime-cpu-fp32")
    ]
    assert (child.count, stand_in_gpu.built) == (1, ["model.onnx"])


@pytest.mark.slow
def test_two_gpus_share_one_engine_on_the_cpu_until_their_plan_is_built_once(
    stand_in_gpu: StandInGpu, child: ChildHere, tmp_path: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_gpu.count = 2
    monkeypatch.setattr(autotune_with_accuracy, "SAMPLES_WAIT_S", 0.0)
    graph = tiny_graph(tmp_path / "model.onnx", card)
    camera = Camera(0)
    given = settings({"s0": wanted(camera)}, engine_dir=tmp_path / "engines", device="cuda:0,cuda:1")
    with Site(camera, of=given.model_copy(update={"model": str(graph)})) as site:
        site.give(camera)
        seen = [[(one.device, one.engine) for one in lane.replicas] for lane in site.service.lanes()]
        assert seen == [[("cpu", "onnxruntime-cpu-fp32")]]
        while len(events := [one for one in site.service.events() if isinstance(one, EngineEvent)]) < 2:
            camera.give()
        camera.give()
        (lane,) = site.service.lanes()
    plan = "tensorrt-cuda-fp32"
    assert [(one.device, one.engine) for one in lane.replicas] == [("cuda:0", plan), ("cuda:1", plan)]
    assert [(one.change, one.engine, one.reason) for one in events] == [
        ("added", plan, "on cuda:1"),
        ("swapped", plan, "replaces onnxruntime-cpu-fp32"),
    ]
    assert (child.count, stand_in_gpu.built) == (1, ["model.onnx"])
