"""Frames for calibration, search and evaluation: disjoint in time, written as in a run, bounded, and errors."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import media
from tests.support.cameras import ClockMount, RtspServer
from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.errors import StreamError, UsageError
from vision_infer.core.geometry import letterbox
from vision_infer.engine.engine import HostSlot
from vision_infer.precision import frames as module
from vision_infer.precision.frames import FrameNeeds, Frames, find_frame_sources, in_words, thumbnail
from vision_infer.stream.find import find_sources, open_source

CARD = parse_card({"name": "small", "input": {"width": 64, "height": 48}}, "test")
LONG = media.Clip(frames=375, rate=Fraction(25))
NEEDS = FrameNeeds(20, 30, 60)


def numbers(names: tuple[str, ...]) -> list[int]:
    """Return the numbers of frames with names such as ``clip 17``."""
    return [int(name.split()[-1]) for name in names]


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    chance = np.random.default_rng(seed)
    for number in range(count):
        color = np.broadcast_to(chance.integers(0, 256, 3, np.uint8), (40, 60, 3))
        media.write_jpeg(folder / f"{number:03}.jpg", np.ascontiguousarray(color))
    return folder


def test_the_sets_are_disjoint_in_time() -> None:
    with Frames([str(media.clip(LONG))], CARD, NEEDS) as found:
        sets = [numbers(one.names) for one in (found.calibration, found.search, found.evaluation)]
    assert all(0.9 * wanted <= len(one) <= wanted for one, wanted in zip(sets, (20, 30, 60), strict=True))
    for one, other in itertools.combinations(sets, 2):
        nearest = np.abs(np.subtract.outer(one, other)).min()
        assert nearest > 12, "half a second lies between"  # 25 frames a second
    assert all(max(one) - min(one) > 200 for one in sets)  # not the first, but spread over all of it


def test_they_are_written_as_a_run_writes_them() -> None:
    path = str(media.clip(LONG))
    with Frames([path], CARD, NEEDS) as found:
        wanted = dict(zip(numbers(found.search.names), found.search.pixels, strict=True))
        with open_source(find_sources([path]).specs[0]) as source:
            for frame in source.frames():
                if frame.index in wanted:
                    layout = letterbox(frame.image.size, CARD.input_size, CARD.fit, CARD.fill)
                    slot = HostSlot(np.zeros((48, 64, 3), np.uint8))
                    frame.image.write_into(slot, layout)
                    assert np.array_equal(slot.pixels, wanted[frame.index])
        assert set(found.search.letterboxes) == {layout}


def test_frames_from_a_folder_of_images(tmp_path: Path) -> None:
    with Frames([str(pictures(tmp_path / "many", 60))], CARD, NEEDS) as found:
        names = [set(one.names) for one in (found.calibration, found.search, found.evaluation)]
    assert sum(map(len, names)) == len(set.union(*names)) == 60
    assert len(names[2]) > len(names[1]) > len(names[0]) > 5  # as they are wanted


def test_too_few_frames(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="10 usable frames, but at least 30 are needed") as caught:
        Frames([str(pictures(tmp_path / "few", 10))], CARD, NEEDS)
    assert "110 frames are best" in caught.value.hint
    with pytest.raises(StreamError, match="usable frames"):
        Frames([str(media.clip(media.H264))], CARD, NEEDS)  # a second: one stretch, and so one set


def test_equal_images_count_once(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "some", 40)
    for number in range(40):
        (folder / f"again-{number:03}.jpg").write_bytes((folder / f"{number:03}.jpg").read_bytes())
    with Frames([str(folder)], CARD, NEEDS) as found:
        assert len(found.calibration) + len(found.search) + len(found.evaluation) == 40


def test_a_long_source_is_sampled_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100 * 64 * 48 * 3)
    with Frames([str(media.clip(LONG))], CARD, FrameNeeds(10, 20, 30)) as found:
        all_numbers = sorted(
            number for one in (found.calibration, found.search, found.evaluation) for number in numbers(one.names)
        )
    assert len(all_numbers) <= 100
    assert min(all_numbers) < 40
    assert max(all_numbers) > 330
    assert {number % 4 for number in all_numbers} == {0}  # every fourth was kept


def test_frames_for_calibration_are_those_that_differ(tmp_path: Path) -> None:
    folder = tmp_path / "alike"
    folder.mkdir()
    rare = (6, 51, 90, 129)  # every third picture is for calibration
    for number in range(180):
        level = 30 + 50 * rare.index(number) if number in rare else 200 + number % 3
        image = np.full((40, 60, 3), level, np.uint8)
        image[number % 40, number // 3] = 255  # so that no two are equal
        media.write_jpeg(folder / f"{number:03}.jpg", image)
    with Frames([str(folder)], CARD, FrameNeeds(20, 20, 20)) as found:
        levels = sorted(int(np.median(one)) for one in found.calibration.pixels)
    assert len(levels) == 20
    assert [level for level in levels if level < 190] == pytest.approx([30, 80, 130, 180], abs=3), "of sixty"


def test_the_checksum_is_of_the_pixels(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a", 40)

    def checksum(path: Path) -> str:
        with Frames([str(path)], CARD, NEEDS) as found:
            return found.calibration.sha256()

    assert checksum(folder) == checksum(folder)
    assert checksum(folder) != checksum(pictures(tmp_path / "b", 40, seed=1))


def test_a_source_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StreamError):
        Frames([str(tmp_path / "no.mp4")], CARD, NEEDS)
    with pytest.raises(UsageError, match="the folder contains no video or image"):
        Frames([str(tmp_path)], CARD, NEEDS)


def test_cameras_of_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(
        "streams:\n  a: {url: 'rtsp://10.0.0.5/a', transport: udp}\n  b: {url: 'rtsp://10.0.0.5/b', enabled: false}\n"
        "credentials: [{match: 10.0.0.0/8, user: ann, password: secret}]\n"
    )
    (spec,) = find_frame_sources([str(path)])
    assert [entry.user for entry in spec.live.credentials] == ["ann"]
    assert "secret" not in repr(spec)
    assert (spec.name, spec.kind, spec.paths, spec.live.transport) == ("a", "live", ("rtsp://10.0.0.5/a",), "udp")


@pytest.mark.parametrize("named", ["configuration", "url"])
def test_a_live_camera_is_read(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIVE_SECONDS", 3.5)
    camera = ClockMount("/yard", width=320, height=180, fps=25, key_interval=25, user="ann", password="secret")
    with RtspServer(camera) as server:
        source = url = server.url("/yard", "ann", "secret")
        if named == "configuration":
            source = str(tmp_path / "cameras.yaml")
            Path(source).write_text(f"streams:\n  yard: {{url: '{url}'}}\n")
        said: list[str] = []
        with Frames([source], CARD, FrameNeeds(10, 10, 30), on_message=said.append) as found:
            sets = (found.calibration, found.search, found.evaluation)
            assert sum(map(len, sets)) >= 20, "50 at least where the machine is not busy"
            assert all(pixels.std() > 10 for one in sets for pixels in one.pixels), "pictures, and not gray"
    assert "secret" not in str((said, [one.names for one in sets]))


def test_an_unreachable_camera_is_reported_without_its_password() -> None:
    with pytest.raises(StreamError) as caught:
        Frames(["rtsp://ann:secret@127.0.0.1:9/yard"], CARD, NEEDS)
    assert "secret" not in str(caught.value)


def test_a_part_of_a_set_is_spread_over_it(tmp_path: Path) -> None:
    with Frames([str(pictures(tmp_path / "many", 60))], CARD, NEEDS) as found:
        part = found.evaluation.first(5)
        assert len(part) == len(part.pixels) == len(part.letterboxes) == 5
        assert (part.names[0], part.names[-1]) == (found.evaluation.names[0], found.evaluation.names[-1])
        assert len(found.evaluation.first(1000)) == len(found.evaluation)


def test_sources_in_words(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    told = in_words(
        ("/home/me/clip.mp4", str(tmp_path / "a" / "b"), "rtsp://user:secret@camera", "http://host/x.mp4?token=secret")
    )
    assert told.startswith("clip.mp4, a/b, rtsp://")
    assert "secret" not in told
    assert "/home" not in told


def test_thumbnails() -> None:
    def gray(level: int) -> NDArray[np.uint8]:
        return np.full((48, 64, 3), level, np.uint8)

    assert thumbnail(gray(100)).shape == (256,)
    assert np.allclose(thumbnail(gray(100)), 100, atol=0.1)


def test_frames_are_fitted_as_the_card_specifies() -> None:
    stretched: ModelCard = CARD.model_copy(update={"fit": "stretch"})
    with Frames([str(media.clip(LONG))], stretched, NEEDS) as found:
        assert found.search.letterboxes[0].content == stretched.input_size
