"""A stream that the machine cannot carry is refused with the arithmetic, or takes what is left."""

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
    """Let the machine have two cores; each result takes a tenth of one, each stream another for its decoding."""
    lanes: tuple[LaneStatus, ...] = ()

    def cost() -> Cost:
        streams = [status("s0", usage=Usage(0.1, 0.1, 0.1), result_fps=5.0)]
        return cost_of(streams, lanes, MachineUsage(2, 0.6, others), in_full)

    monkeypatch.setattr(site.service, "cost", cost)


def test_a_rate_that_is_left_is_granted_and_a_greater_one_refused(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_promises_count_though_they_are_not_used_yet(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    file, made, other = Camera(0), Camera(1), Camera(2)
    with Site(file, made, other, of=settings({"s0": wanted(file, fps=5)})) as site:
        measured(site, monkeypatch)
        site.service.create("s1", wanted(made, fps=8))
        with pytest.raises(ConflictError, match=r"s2: needs 4 fps; 2\.0 fps are available"):
            site.service.create("s2", wanted(other, fps=4))
        site.service.replace("s1", wanted(made, fps=2))
        site.service.create("s2", wanted(other, fps=4))


def test_what_promises_nothing_is_made_all_the_same(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_streams_take_that_give_way_is_reckoned_in_full_or_not_at_all(
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


def test_a_stream_that_wants_less_than_before_is_never_refused(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Camera(0)
    with Site(made, of=settings({})) as site:
        site.service.create("s0", wanted(made, fps=20))
        measured(site, monkeypatch, others=2)
        site.service.replace("s0", wanted(made, fps=10))
        site.service.replace("s0", wanted(made, fps=10, weight=3))
        with pytest.raises(ConflictError):
            site.service.replace("s0", wanted(made, fps=12))


def test_before_anything_was_measured_nothing_is_refused(engines: Engines) -> None:
    made = Camera(0)
    with Site(made, of=settings({})) as site:
        site.service.create("s0", wanted(made, fps=900))
        site.give(made)
        assert site.status("s0").state is StreamState.LIVE
