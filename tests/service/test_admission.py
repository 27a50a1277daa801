"""Admission control: a stream that exceeds the capacity is rejected with the figures, or runs with best effort."""

from __future__ import annotations

import pytest

from tests.pipeline.live_fakes import Camera
from tests.service.fakes import status
from tests.service.site import Engines, Site, engines, settings, wanted
from vision_infer.pipeline.status import LaneStatus, StreamState, Usage
from vision_infer.service.errors import ConflictError
from vision_infer.service.streams.cost import Cost, MachineUsage, StreamCost, cost_of

__all__ = ["engines"]


def measured(
    site: Site, monkeypatch: pytest.MonkeyPatch, others: float = 0.0, in_full: dict[str, StreamCost | None] | None = None
) -> None:
    """Simulate a machine with two cores; each result takes 0.1 cores, and decoding each stream another 0.1."""
    lanes: tuple[LaneStatus, ...] = ()

    def cost() -> Cost:
        streams = [status("s0", usage=Usage(0.1, 0.1, 0.1), result_fps=5.0)]
        return cost_of(streams, lanes, MachineUsage(2, 0.6, others), in_full)

    monkeypatch.setattr(site.service._streams, "_cost", cost)


def test_a_rate_within_the_spare_capacity_is_accepted_and_a_higher_one_rejected(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, made = Camera(0), Camera(1)
    with Site(file, made, of=settings({"s0": wanted(file, fps=5)})) as site:
        measured(site, monkeypatch)
        # 2 × 0.85 - 0.2 for decoding - 5 × 0.1 = 1.0
        with pytest.raises(ConflictError, match=r"s1: needs 11 fps; 10\.0 fps are available, limited by the cpu"):
            site.service.create("s1", wanted(made, fps=11))
        assert {view.name for view in site.service.streams()} == {"s0"}
        site.service.create("s1", wanted(made, fps=9.9))
        site.give(made)
        assert site.status("s1").state is StreamState.LIVE


def test_guaranteed_rates_count_even_if_unused(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    file, made, other = Camera(0), Camera(1), Camera(2)
    with Site(file, made, other, of=settings({"s0": wanted(file, fps=5)})) as site:
        measured(site, monkeypatch)
        site.service.create("s1", wanted(made, fps=8))
        with pytest.raises(ConflictError, match=r"s2: needs 4 fps; 2\.0 fps are available"):
            site.service.create("s2", wanted(other, fps=4))
        site.service.replace("s1", wanted(made, fps=2))
        site.service.create("s2", wanted(other, fps=4))


def test_streams_without_a_guaranteed_rate_are_always_accepted(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    file, made, other, asleep = Camera(0), Camera(1), Camera(2), Camera(3)
    with Site(file, made, other, asleep, of=settings({"s0": wanted(file, fps=5)})) as site:
        measured(site, monkeypatch, others=1.4)
        with pytest.raises(ConflictError, match=r"needs 1 fps; 0\.0 fps are available"):
            site.service.create("s1", wanted(made, fps=1))
        site.service.create("s1", wanted(made, fps=25, best_effort=True))
        site.service.create("s2", wanted(other))
        site.service.create("s3", wanted(asleep, fps=25, enabled=False))
        with pytest.raises(ConflictError, match="s3: needs 25 fps"):
            site.service.replace("s3", wanted(asleep, fps=25))
        with pytest.raises(ConflictError, match="s1: needs 25 fps"):
            site.service.replace("s1", wanted(made, fps=25))


def test_degraded_streams_count_at_full_cost_or_make_the_capacity_unknown(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, made = Camera(0), Camera(1)
    with Site(file, made, of=settings({"s0": wanted(file, fps=5)})) as site:
        measured(site, monkeypatch, in_full={"s0": StreamCost("s0", 0.3, 1.0, None, 5.0, 260, 0.65)})
        # 2 × 0.85 - 0.6 for decoding - 5 × 0.2 = 0.1
        with pytest.raises(ConflictError, match=r"s1: needs 1 fps; 0\.5 fps are available, limited by the cpu"):
            site.service.create("s1", wanted(made, fps=1))
        measured(site, monkeypatch, in_full={"s0": None})
        with pytest.raises(ConflictError, match=r"s1: needs 1 fps; the remaining capacity is unknown: .*\(s0\).* not measured"):
            site.service.create("s1", wanted(made, fps=1))
        site.service.create("s1", wanted(made, fps=1, best_effort=True))


def test_lowering_the_rate_is_always_accepted(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Camera(0)
    with Site(made, of=settings({})) as site:
        site.service.create("s0", wanted(made, fps=20))
        measured(site, monkeypatch, others=2)
        site.service.replace("s0", wanted(made, fps=10))
        site.service.replace("s0", wanted(made, fps=10, weight=3))
        with pytest.raises(ConflictError):
            site.service.replace("s0", wanted(made, fps=12))


def test_nothing_is_rejected_before_the_first_measurement(engines: Engines) -> None:
    made = Camera(0)
    with Site(made, of=settings({})) as site:
        site.service.create("s0", wanted(made, fps=900))
        site.give(made)
        assert site.status("s0").state is StreamState.LIVE
