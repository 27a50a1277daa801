"""A per-stream setting is written once and reaches ``run`` and ``serve``.

Adding a setting touches two files: ``config/stream_policy.py``, where it is declared, and the module that acts on it and finds it
in ``AddStream.policy``. The toy field below is declared once and nothing else knows about it.
"""

from __future__ import annotations

from typing import Any

import pytest
import typer
from pydantic import Field, ValidationError
from typer.testing import CliRunner

from tests.pipeline.fakes import EchoEngine, FakeSource
from tests.pipeline.fakes import make_lane as make_fake_lane
from vision_infer.cli.settings_options import command_with_settings
from vision_infer.config.run import RunSettings, validated
from vision_infer.config.serve import StreamSettings
from vision_infer.config.stream_policy import StreamPolicy
from vision_infer.pipeline.runs import run_factories
from vision_infer.service.streams import stream_command


class ToyPolicy(StreamPolicy):
    """The policy with one more field."""

    grain_size: int = Field(default=1, ge=1, le=9, description="The size of a grain, used with `fps`.")


class ToyRun(ToyPolicy, RunSettings):
    """The settings of a run with the field."""


class ToyStream(ToyPolicy, StreamSettings):
    """The settings of a stream with the field."""


def run_cli(*words: str) -> tuple[RunSettings | None, str]:
    """Run a command generated from the toy settings; returns the settings and what it prints."""
    received: list[RunSettings] = []

    def command(given: dict[str, Any]) -> int:
        received.append(validated(ToyRun, given))
        return 0

    app = typer.Typer(rich_markup_mode=None)
    app.command()(command_with_settings(ToyRun, command))
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    return (received[0] if received else None), result.output


def test_the_option_of_a_run_is_generated_with_its_default_its_bounds_and_its_help() -> None:
    _, text = run_cli("--help")
    assert "--grain-size" in text
    assert "The size of a grain, used with --fps." in text
    assert "1<=x<=9" in text
    settings, text = run_cli("a.mp4", "--grain-size", "10")
    assert settings is None
    assert "--grain-size" in text


def test_the_value_reaches_the_command_of_a_run() -> None:
    settings, text = run_cli("a.mp4", "--grain-size", "3", "--classes", "1,2", "--per-class", "1=0.5")
    assert settings is not None, text
    command = run_factories.source_command(FakeSource(0).spec, make_fake_lane(EchoEngine()), settings)
    assert isinstance(command.policy, ToyPolicy)
    assert command.policy.grain_size == 3
    assert command.policy.classes == ("1", "2")
    assert command.policy.per_class == {"1": 0.5}


def test_the_value_reaches_the_command_of_a_stream_of_the_service() -> None:
    settings = ToyStream.model_validate({"detect": "test://", "grain_size": 4})
    command = stream_command.live_stream_command("door", settings, make_fake_lane(EchoEngine()), None, ())
    assert isinstance(command.policy, ToyPolicy)
    assert command.policy.grain_size == 4
    with pytest.raises(ValidationError, match="less than or equal to 9"):
        ToyStream.model_validate({"detect": "test://", "grain_size": 10})


def test_every_field_of_the_policy_is_an_option_of_run_and_a_field_of_a_stream() -> None:
    _, text = run_cli("--help")
    for name in StreamPolicy.model_fields:
        assert f"--{name.replace('_', '-')}" in text
        assert name in StreamSettings.model_fields


def test_tracking_lowers_the_confidence_of_the_selection_alike_in_a_run_and_in_a_stream() -> None:
    lane = make_fake_lane(EchoEngine())
    wanted: dict[str, Any] = {"confidence": 0.4, "per_class": {"1": 0.6}, "track": True}
    run = run_factories.source_command(FakeSource(0).spec, lane, ToyRun(sources=("-",), **wanted))
    stream = stream_command.live_stream_command("door", ToyStream.model_validate({"detect": "test://", **wanted}), lane, None, ())
    assert run.selector == stream.selector
    assert run.track == stream.track == 0.4
    assert run.selector is not None
    assert run.selector.confidence < 0.4
