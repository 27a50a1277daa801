"""Settings of zones and lines: valid content, and errors that name the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from vision_infer.config import zones
from vision_infer.config.zones import LineSettings, ZoneSettings
from vision_infer.core.scene_event import SCENE_EVENT_SCHEMA

SQUARE = [[0, 0], [9, 0], [9, 9]]


def test_the_example_in_the_docstring_is_valid() -> None:
    assert zones.__doc__ is not None
    data = yaml.safe_load(zones.__doc__.partition("\n\n")[2])
    door = ZoneSettings.model_validate(data["zones"]["door"])
    assert (door.units, door.anchor, door.classes, door.dwell_s, door.min_s) == (
        "relative",
        "bottom_center",
        ("person",),
        30,
        0.2,
    )
    gate = LineSettings.model_validate(data["lines"]["gate"])
    assert (gate.from_, gate.to, gate.units, gate.classes) == ((320, 480), (320, 0), "pixels", None)


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({}, "polygon", "required"),
        ({"polygon": SQUARE[:2]}, "polygon", "at least 3"),
        ({"polygon": [[0, 0], [5, 5], [9, 9]]}, "polygon", "all points are on one line"),
        ({"polygon": [[0, 0], [1, 0], [1, 1]]}, "polygon", "write units: relative"),
        ({"polygon": SQUARE, "units": "relative"}, "polygon", "write units: pixels"),
        ({"polygon": SQUARE, "units": "inches"}, "units", "'pixels' or 'relative'"),
        ({"polygon": [[0, 0], [9, "x"], [9, 9]]}, "polygon.1.1", "number"),
        ({"polygon": SQUARE, "anchor": "top"}, "anchor", "center"),
        ({"polygon": SQUARE, "classes": []}, "classes", "at least 1"),
        ({"polygon": SQUARE, "classes": [""]}, "classes.0", "at least 1"),
        ({"polygon": SQUARE, "dwell_s": 0}, "dwell_s", "greater than 0"),
        ({"polygon": SQUARE, "dwell_s": float("inf")}, "dwell_s", "finite"),
        ({"polygon": SQUARE, "min_s": -1}, "min_s", "greater than or equal to 0"),
        ({"polygon": SQUARE, "color": "red"}, "color", "not permitted"),
    ],
)
def test_an_invalid_zone_names_its_field(values: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ZoneSettings.model_validate(values)
    first, *_ = raised.value.errors(include_url=False)
    assert ".".join(map(str, first["loc"])) == field
    assert words in first["msg"]


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"from": [0, 0]}, "to", "required"),
        ({"from": [0, 0], "to": [9]}, "to.1", "required"),
        ({"from": [0, 0], "to": [9, float("nan")]}, "to.1", "finite"),
        ({"from": [4, 5], "to": [4, 5]}, "", "at the same point"),
        ({"from": [0, 0], "to": [1, 1]}, "", "write units: relative"),
        ({"from": [0, 0], "to": [1, 2], "units": "relative"}, "", "write units: pixels"),
        ({"from": [0, 0], "to": [9, 9], "classes": []}, "classes", "at least 1"),
        ({"from": [0, 0], "to": [9, 9], "min_s": 1}, "min_s", "not permitted"),
    ],
)
def test_an_invalid_line_names_its_field(values: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        LineSettings.model_validate(values)
    first, *_ = raised.value.errors(include_url=False)
    assert ".".join(map(str, first["loc"])) == field
    assert words in first["msg"]


def test_dumped_settings_can_be_loaded() -> None:
    line = LineSettings.model_validate({"from": [0, 0.5], "to": [1, 0.5], "units": "relative", "classes": ["person"]})
    zone = ZoneSettings.model_validate({"polygon": SQUARE, "dwell_s": 5})
    for by_alias in (False, True):
        assert LineSettings.model_validate(line.model_dump(by_alias=by_alias)) == line
        assert LineSettings.model_validate_json(line.model_dump_json(by_alias=by_alias)) == line
        assert ZoneSettings.model_validate_json(zone.model_dump_json(by_alias=by_alias)) == zone
    assert set(LineSettings.model_json_schema()["required"]) == {"from", "to"}


def test_the_example_in_the_documentation_is_valid() -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "zones-and-lines.md").read_text(encoding="utf-8")
    stream = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])["streams"]["yard"]
    door = ZoneSettings.model_validate(stream["zones"]["door"])
    assert door == ZoneSettings(
        units="relative", polygon=((0.4, 0.5), (0.6, 0.5), (0.6, 1.0), (0.4, 1.0)), classes=("person",), dwell_s=30
    )
    assert LineSettings.model_validate(stream["lines"]["gate"]).to == (0.5, 0)
    events = text.partition("```json\n")[2].partition("```")[0].splitlines()
    assert [json.loads(event)["kind"] for event in events] == ["enter", "dwell", "leave", "cross"]
    for event in events:
        Draft202012Validator(SCENE_EVENT_SCHEMA).validate(json.loads(event))
