"""The parts of a shadow model: its file, spare capacity, the agreement of two models, and the API."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.service.fakes import ADMIN, TOKENS, VIEW, Api
from tests.service.site import settings
from vision_infer.compare.detections import renumbered
from vision_infer.config.service.shadow import ShadowSettings
from vision_infer.core.detections import Detections
from vision_infer.service.shadow import shadow
from vision_infer.service.shadow.agreement import WINDOW, EngineTimes, ModelAgreement, Sums, sums_of
from vision_infer.service.shadow.trial import ShadowStatus
from vision_infer.service.streams.cost import MachineUsage, cost_of


@pytest.mark.parametrize("content", ["{", "[]", '{"models": [], "shadow": 3}'])
def test_a_damaged_file_is_ignored(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "shadow.json").write_text(content)
    file = shadow.ShadowFile(tmp_path / "shadow.json", None)
    assert (file.shadow, file.replacements) == (None, {})
    assert "is ignored" in caplog.text


def test_a_changed_configuration_replaces_the_stored_candidate(tmp_path: Path) -> None:
    path, before, after = tmp_path / "shadow.json", ShadowSettings(model="two"), ShadowSettings(model="three")
    shadow.ShadowFile(path, before).write(None, {"one": "two"})
    assert shadow.ShadowFile(path, before).shadow is None
    assert shadow.ShadowFile(path, after).shadow == after
    assert shadow.ShadowFile(path, after).replacements == {"one": "two"}


@pytest.mark.parametrize(
    ("used", "own", "step", "dropped", "reason"),
    [
        (1.0, 0.0, 0, {}, ""),
        (1.9, 0.0, 0, {}, "the machine is 95% busy"),
        (1.9, 0.8, 0, {}, ""),  # the candidate's own use does not count
        (0.1, 0.0, 1, {}, "streams are degraded"),
        (0.1, 0.0, 0, {"superseded": 3}, "streams drop frames because the machine is too slow"),
        (0.1, 0.0, 0, {"gated": 3}, ""),
    ],
)
def test_spare_capacity(used: float, own: float, step: int, dropped: dict[str, int], reason: str) -> None:
    streams = SimpleNamespace(configured=lambda: {"s0": SimpleNamespace(step=step)})
    load = SimpleNamespace(cost=lambda: cost_of([], [], MachineUsage(2, used, 0.0)))
    supervisor = SimpleNamespace(statuses=lambda: [SimpleNamespace(dropped=dropped)])
    one: Any = shadow.Shadow
    made = one(settings(), shadow.ShadowFile(None, None), streams, SimpleNamespace(), supervisor, load, None)
    assert made._shortage(own) == reason
    if dropped:
        assert made._shortage(own) == ""  # no more frames were dropped


def found(*labels: int) -> Detections:
    boxes = np.array([[10 * number, 0, 10 * number + 8, 8] for number in range(len(labels))], np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(len(labels), 0.5, np.float32), np.array(labels, np.int32))


def test_the_window_is_bounded() -> None:
    agreement = ModelAgreement()
    times = EngineTimes(4, 2)
    agreement.add(sums_of(found(0, 1), found(0), times, times)[0])
    for _ in range(WINDOW):
        agreement.add(sums_of(found(0), found(1), times, times)[0])
    assert (agreement.total.frames, agreement.total.found_again) == (WINDOW + 1, 1)
    assert agreement.recent == Sums(WINDOW, WINDOW, WINDOW, 0, 0.0, 0.0, (4.0 * WINDOW, 2.0 * WINDOW, 4.0 * WINDOW, 2.0 * WINDOW))


def test_classes_are_compared_by_label() -> None:
    current, other = ("person", "car"), ("Car", "dog", "person")
    assert renumbered(found(0, 1, 2), other, current).class_ids.tolist() == [1, 3, 0]


def test_the_api_shows_and_changes_the_shadow_model() -> None:
    api = Api(tokens=TOKENS)
    assert api.ask("GET", "/api/v1/shadow", VIEW).json() is None
    assert api.ask("PUT", "/api/v1/shadow", ADMIN, json={"model": "two"}).status_code == 409  # several processes
    asked: list[Any] = []
    sums = Sums(4, 4, 2, 2, 1.8, -0.2, (8e6, 4e6, 12e6, 12e6))
    status = ShadowStatus(ShadowSettings(model="two"), "one", "comparing", "", "echo", {"busy": 3}, sums, Sums())

    def change(what: Any) -> ShadowStatus:
        asked.append(what)
        return status

    api.backend.shadow = SimpleNamespace(
        status=lambda: status, put=change, delete=lambda: change("delete"), promote=lambda: change("promote")
    )
    answer = api.ask("GET", "/api/v1/shadow", VIEW).json()
    assert answer["recent"] == {
        "frames": 4,
        "found_again": 0.5,
        "mean_iou": 0.9,
        "score_shift": -0.1,
        "count_drift": -0.5,
        "current": {"latency_ms": 2.0, "cost_ms": 1.0},
        "candidate": {"latency_ms": 3.0, "cost_ms": 3.0},
    }
    assert answer["total"]["found_again"] is None
    changes = [("PUT", "", {"json": {"model": "two", "every": 3}}), ("POST", "/promote", {}), ("DELETE", "", {})]
    for method, path, more in changes:
        assert api.ask(method, f"/api/v1/shadow{path}", VIEW, **more).status_code == 403
    assert asked == []
    codes = [api.ask(method, f"/api/v1/shadow{path}", ADMIN, **more).status_code for method, path, more in changes]
    assert (codes, asked) == ([200, 200, 204], [ShadowSettings(model="two", every=3), "promote", "delete"])
    assert api.ask("PUT", "/api/v1/shadow", ADMIN, json={"model": "two", "every": 0}).status_code == 422
    assert 'vision_infer_shadow_frames_total{outcome="busy"} 3.0' in api.ask("GET", "/metrics", VIEW).text
