"""The speeds of kinds of machines, learned from the costs of cameras."""

from __future__ import annotations

from vision_infer.cluster.speeds import Speeds


def test_a_kind_is_as_fast_as_the_same_work_costs_less() -> None:
    speeds = Speeds()
    assert speeds.of("old") == 1.0, "nothing was measured"
    speeds.learn([("old", "m", 0.4), ("old", "m", 0.6), ("old", "n", 3.0)])
    assert (speeds.of("old"), speeds.of("new")) == (1.0, None)
    speeds.learn([("old", "m", 0.5), ("old", "n", 3.0), ("new", "m", 0.25)])
    assert speeds.of("new") == 2.0
    speeds.learn([("new", "m", 0.25), ("third", "m", 1.0)])
    assert speeds.of("third") == 0.5, "compared with a kind whose speed is known"


def test_different_work_gives_a_rough_speed() -> None:
    speeds = Speeds()
    speeds.learn([("old", "m", 0.5), ("new", "n", 0.25), ("old", "m", 0.5)])
    assert (speeds.of("old"), speeds.of("new")) == (1.0, 2.0)


def test_a_speed_stays_while_cameras_run_on_its_kind() -> None:
    speeds = Speeds()
    speeds.learn([("old", "m", 0.5)])
    speeds.learn([("old", "m", 5.0)])
    assert speeds.of("old") == 1.0
    speeds.learn([("new", "m", 0.5)])
    assert (speeds.of("old"), speeds.of("new")) == (None, 1.0), "the scale begins again without cameras on a known kind"
