"""The settings of a run: errors name the option, and valid settings are frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vision_infer.config.run import DEFAULT_MODEL, RunSettings, run_settings
from vision_infer.core.errors import UsageError


def test_only_sources_are_needed() -> None:
    settings = run_settings(sources=("a.mp4",))
    assert settings.sources == ("a.mp4",)
    assert settings.model == DEFAULT_MODEL
    assert settings.every == 1
    assert settings.engine == settings.device == "auto"
    for choice in ("workers", "threads", "batch", "confidence", "iou", "classes", "end", "fps"):
        assert getattr(settings, choice) is None, "left to the card or the machine"
    assert not settings.overwrite


def test_settings_are_frozen() -> None:
    settings = run_settings(sources=("a.mp4",))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "every", 2)  # noqa: B010 - the type checker refuses it too


@pytest.mark.parametrize(
    "values",
    [
        {"workers": 1, "threads": 256, "batch": 16},
        {"confidence": 0.0, "iou": 1.0},
        {"confidence": 1.0, "iou": 0.01},
        {"start": 5.0, "end": 5.5},
        {"end": 0.1},
        {"classes": ("person", "2"), "per_class": {"person": 0.5, "car": 0.0}},
        {"model_dir": Path("models")},
    ],
)
def test_valid_settings_are_accepted(values: dict[str, Any]) -> None:
    settings = run_settings(sources=("a.mp4",), **values)
    assert {name: getattr(settings, name) for name in values} == values
    assert RunSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("sources", ()),
        ("sources", "a.mp4"),
        ("device", ""),
        ("device", "tpu"),
        ("device", "cuda:"),
        ("device", "cuda:0,"),
        ("device", "cuda:0,cuda"),
        ("device", "cpu,cpu"),
        ("device", "auto,cpu"),
        ("device", "all,cpu"),
        ("model", ""),
        ("workers", 0),
        ("workers", 257),
        ("threads", 0),
        ("batch", -1),
        ("batch", 2.5),
        ("every", 0),
        ("every", "often"),
        ("confidence", -0.1),
        ("confidence", 1.1),
        ("confidence", float("nan")),
        ("iou", 0.0),
        ("iou", 1.5),
        ("track_index", -1),
        ("start", -1.0),
        ("start", float("inf")),
        ("end", 0.0),
        ("fps", 0.0),
        ("fps", float("inf")),
        ("max_pixels", 0),
        ("per_class", {"person": 1.5}),
        ("per_class", {"person": float("nan")}),
        ("min_size", -1.0),
        ("preview_fps", 0.0),
        ("preview_size", 8),
        ("rotate_mb", 0.0),
        ("no_such_option", 1),
    ],
)
def test_an_invalid_setting_names_its_option(option: str, value: object) -> None:
    given: dict[str, Any] = {"sources": ("a.mp4",)} | {option: value}
    with pytest.raises(UsageError) as caught:
        run_settings(**given)
    assert caught.value.message.startswith(option)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "device"),
    [
        *((one, one) for one in ("auto", "all", "cpu", "cuda:3", "cuda:0,cuda:1", "cuda:1,cpu")),
        ("cuda", "cuda:0"),
        ("cuda:01, cpu", "cuda:1,cpu"),
    ],
)
def test_devices(given: str, device: str) -> None:
    assert run_settings(sources=("a.mp4",), device=given).device == device


@pytest.mark.parametrize("end", [3.0, 5.0])
def test_the_end_must_be_after_the_start(end: float) -> None:
    with pytest.raises(UsageError, match=r"^end: must be after the start, 5\.0 s"):
        run_settings(sources=("a.mp4",), start=5.0, end=end)


def test_all_invalid_settings_are_named() -> None:
    with pytest.raises(UsageError, match=r"^2 problems: workers: .*; every: "):
        run_settings(sources=("a.mp4",), every=0, workers=0)
