"""The meter of ages that all programs of ``make bench-peers`` use."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers.live import LOOP_S, WARM_UP_S, _ages, position_ms
from benchmarks.peers.live_meter import Meter, read
from vision_infer.stream.time_code_reader import draw

INTERVAL_S = 1 / 30


@pytest.mark.parametrize("moment", [0, 33, 5000, 9967])
def test_the_meter_reads_the_drawn_time_code(moment: int) -> None:
    image = np.full((1080, 1920), 90, np.uint8)
    draw(image, moment)
    assert read(image) == moment
    assert read(np.full((1080, 1920), 90, np.uint8)) is None


def test_the_time_of_the_meter_starts_with_the_first_result() -> None:
    meter = Meter(0.0)
    before = meter.over
    image = np.full((360, 640), 90, np.uint8)
    draw(image, 33)
    meter.done("camera", image)
    assert (before, meter.over) == (False, True)
    assert [note[:2] for note in meter.notes] == [("camera", 33)]


@pytest.mark.parametrize("began", [1000.0, 1003.7, 1000.0 - 7 * LOOP_S])
def test_growing_ages_are_measured_beyond_a_loop_of_the_video(began: float) -> None:
    # Every frame in order at half the frame rate: after 40 s the age is 20 s, two loops.
    notes = [
        ("camera", round(number * INTERVAL_S % LOOP_S * 1000), began + 0.1 + 2 * number * INTERVAL_S) for number in range(600)
    ]
    ages = _ages("camera", notes, began)
    assert ages[0][0] == pytest.approx(began + 0.1 + WARM_UP_S, abs=2 * INTERVAL_S)
    assert ages[0][1] == pytest.approx(0.1 + WARM_UP_S / 2, abs=0.05)
    assert ages[-1][1] == pytest.approx(0.1 + 599 * INTERVAL_S, abs=0.01)
    assert _ages("another", notes, began) == []


def test_skipped_frames_do_not_increase_the_ages() -> None:
    notes = [("camera", round(number * INTERVAL_S % LOOP_S * 1000), number * INTERVAL_S + 0.25) for number in range(0, 900, 7)]
    assert all(age == pytest.approx(0.25, abs=0.002) for _, age in _ages("camera", notes, 0.0))


@pytest.mark.parametrize("wrong_s", [-0.01, 0.0, 0.01])
def test_a_wrong_clock_of_the_service_does_not_change_the_ages(wrong_s: float) -> None:
    """The reported time of capture selects the frame; the age counts from the time at which the witness saw it sent."""
    began = 1003.7
    notes = []
    for number in range(0, 900, 7):
        sent = began + number * INTERVAL_S
        notes.append(("camera", position_ms(sent + wrong_s, began), sent + 0.2))
    ages = [age for _, age in _ages("camera", notes, began)]
    assert ages
    assert all(age == pytest.approx(0.2, abs=0.002) for age in ages)
