"""Tracks get identities from a secondary model: in a run, in a supervisor, and when the settings of a stream change."""

from __future__ import annotations

import csv
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from tests.engine.graphs import color_graph
from tests.pipeline.fakes import CARD, EchoEngine, FakeSink, FakeSource, add, finish, make_lane, with_options
from tests.pipeline.test_secondary_stage import NumberEngine
from tests.support import media
from tests.support.result_schema import validate_row
from vision_infer.analyze.identity.gallery import Galleries
from vision_infer.analyze.select import Selector
from vision_infer.config.run import RunSettings, run_settings
from vision_infer.config.stream_policy import ReidentifySettings
from vision_infer.config.validation_errors import SettingsError
from vision_infer.core.card import InputSize, ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import UsageError
from vision_infer.engine.engine import RawResults, Ticket
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.runs.api import Detector, Pipeline
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.steps import make_steps
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.stream.source import SourceSpec

GAP = range(20, 100)
"""The frames in which the object is not there: longer than a tracker waits."""
FRAMES = 120


class AppearanceEngine(NumberEngine):
    """Embeds crops: those of streams 0, 2, … look different from those of streams 1, 3, …"""

    card = ModelCard(name="looks", task="embed", input=InputSize(width=4, height=4), fit="stretch")

    def collect(self, ticket: Ticket) -> RawResults:
        self._pool.release(ticket.loan)
        return RawResults({"embedding": np.eye(2, dtype=np.float32)[np.array(ticket.state) % 2]}, 1, 2)


class ColoredSource(FakeSource):
    """A source whose image is of one color: the number of the stream."""

    def frames(self) -> Any:
        for frame in super().frames():
            frame.image.to_rgb = lambda: np.full((256, 256, 3), self.number, np.uint8)  # type: ignore[method-assign]
            yield frame


def away(outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The object leaves for a while; its box has the number of the frame."""
    return outputs | {"scores": np.where(np.isin(outputs["boxes"][..., 0], GAP), 0, outputs["scores"]).astype(np.float32)}


def supervise(sources: list[FakeSource], across: bool | str = False) -> FakeSink:
    """Run sources with re-identification to their end."""
    by_name, shared = {source.name: source for source in sources}, FakeSink()

    def open_stream(spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> FakeSource:
        return by_name[spec.name]

    secondary = Lane("secondary", AppearanceEngine(), Selector(confidence=0, iou=None))
    supervisor = Supervisor([make_lane(EchoEngine(outputs=away)), secondary], [shared], open_stream=open_stream)
    for source in sources:
        command = add(source, secondary="secondary", track=0.5)
        policy = command.policy.model_copy(update={"reidentify": ReidentifySettings(across=across)})
        supervisor.add(replace(command, policy=policy))
    finish(supervisor)
    return shared


def seen(shared: FakeSink, stream: str) -> list[tuple[int, int, int]]:
    """Return the frame, the track and the identity of each detection with an identity."""
    found = []
    for name, index, result in shared.written:
        if name == stream and result is not None:
            assert result.detections.descriptions is None
            found += [(index, one.track_id or 0, one.identity) for one in result.detections if one.identity is not None]
    return found


def test_an_object_that_returns_has_another_track_and_the_same_identity() -> None:
    found = seen(supervise([ColoredSource(0, FRAMES)]), "s0")
    assert {(index < GAP[0], track, identity) for index, track, identity in found} == {(True, 1, 1), (False, 2, 1)}
    assert len(found) > FRAMES - len(GAP) - 12  # confirmed by the third detection, known after three embeddings more


@pytest.mark.parametrize("across", [False, True, "yard"])
def test_cameras_share_identities_if_that_is_wanted(across: bool | str) -> None:
    shared = supervise([ColoredSource(number, FRAMES) for number in range(3)], across)
    first, second, third = ({identity for _, _, identity in seen(shared, f"s{number}")} for number in range(3))
    assert len(first) == len(second) == len(third) == 1
    if across:
        assert (first == third, first == second) == (True, False)
    else:
        assert first == second == third == {1}


def command(**policy: Any) -> Any:
    wanted = {"reidentify": ReidentifySettings()} | policy
    base = with_options(add(FakeSource(0)), track=0.4, secondary="secondary")
    return replace(base, policy=base.policy.model_copy(update=wanted))


def test_a_change_of_settings_keeps_the_identities() -> None:
    old, galleries = command(), Galleries()
    steps = make_steps(old, CARD, None, SYSTEM_CLOCK, None, galleries)
    new = command(reidentify=ReidentifySettings(threshold=0.4, timeout_s=7), confidence=0.7)
    changed = make_steps(new, CARD, None, SYSTEM_CLOCK, (old, steps), galleries)
    assert steps.identities is not None
    assert changed.identities is steps.identities
    assert (changed.identities.threshold, changed.identities.timeout_s) == (0.4, 7)
    other_model = make_steps(replace(new, lane="other"), CARD, None, SYSTEM_CLOCK, (new, changed), galleries).identities
    assert other_model is not None
    assert (other_model is changed.identities, other_model.gallery is changed.identities.gallery) == (False, True)
    shared = command(reidentify=ReidentifySettings(across=True))
    with_others = make_steps(shared, CARD, None, SYSTEM_CLOCK, (new, changed), galleries).identities
    assert with_others is not None
    assert with_others.gallery is galleries.of("", "secondary")
    assert make_steps(command(reidentify=None), CARD, None, SYSTEM_CLOCK, (shared, changed), galleries).identities is None


CLIP_FRAMES = 40


def settings(folder: Path, **options: Any) -> RunSettings:
    outputs = tuple(str(folder / name) for name in ("rows.jsonl", "rows.csv", "rows.parquet"))
    values = {"secondary": str(color_graph(folder / "color.onnx", "embed")), "track": True, "reidentify": "0.2"} | options
    clip = media.excerpt(100, CLIP_FRAMES, 640, 272)
    return run_settings(sources=(str(clip),), device="cpu", workers=2, out=outputs, confidence=0.3, **values)


def test_a_run_writes_identities_and_no_embeddings(tmp_path: Path) -> None:
    run(settings(tmp_path), threading.Event())
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        validate_row(row)
    found = [one.get("identity") for row in rows for one in row["detections"]]
    assert len(list(filter(None, found))) > CLIP_FRAMES / 2
    assert not [one for row in rows for one in row["detections"] if "embedding" in one or "track_id" not in one]
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet")
    assert table["identity"].to_pylist() == found
    assert "embedding" not in table.column_names
    with (tmp_path / "rows.csv").open() as file:
        assert [row["identity"] for row in csv.DictReader(file)] == ["" if one is None else str(one) for one in found]


def test_the_python_interface_has_identities(tmp_path: Path) -> None:
    secondary, clip = color_graph(tmp_path / "color.onnx", "embed"), media.excerpt(100, CLIP_FRAMES, 640, 272)
    pipeline = Pipeline(Detector(device="cpu", confidence=0.3), track=True, secondary=secondary, reidentify={"threshold": 0.2})
    found = [one.identity for result in pipeline.run(clip) for one in result.detections]
    assert any(found)
    with pytest.raises(UsageError, match="color-classify is a model for 'classify' and has no embeddings"):
        Pipeline(Detector(), track=True, secondary=color_graph(tmp_path / "classes.onnx"), reidentify=0.2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"secondary": None}, "needs secondary, a model for embeddings"),
        ({"track": False}, "needs track, because an identity belongs to a track"),
        ({"reidentify": "much"}, "is not THRESHOLD"),
        ({"reidentify": "0.2,across=a b"}, "is not THRESHOLD"),
        ({"reidentify": "3"}, "less than or equal to 2"),
        ({"reidentify": "0.2,timeout=0"}, "greater than or equal to 1"),
    ],
)
def test_settings_without_what_they_need_are_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        settings(tmp_path, **options)


def test_a_model_without_embeddings_and_files_across_are_refused(tmp_path: Path) -> None:
    classes = str(color_graph(tmp_path / "classes.onnx"))
    with pytest.raises(UsageError, match="color-classify is a model for 'classify' and has no embeddings to compare"):
        run(settings(tmp_path, secondary=classes), threading.Event())
    with pytest.raises(SettingsError, match="applies to cameras only: files are read at different speeds"):
        run(settings(tmp_path, reidentify="0.2,across"), threading.Event())


def test_the_text_of_the_option() -> None:
    read = ReidentifySettings.model_validate
    assert read("0.35") == read(0.35) == ReidentifySettings(threshold=0.35)
    assert read("0.3,timeout=60,across") == ReidentifySettings(threshold=0.3, timeout_s=60, across=True)
    assert [read(text).group for text in ("0.3", "0.3,across", "0.3,across=yard-2")] == [None, "", "yard-2"]
