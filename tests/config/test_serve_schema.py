"""The JSON Schema of the configuration, for editors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.media import ROOT
from vision_infer.config.serve_schema import config_schema

SCHEMA = config_schema()
EXAMPLES = sorted((ROOT / "streams").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.protocols.Validator:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_valid(validator: jsonschema.protocols.Validator, path: Path) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8")))] == []


@pytest.mark.parametrize(
    "text",
    [
        "streams: {a: {url: 'test://'}}",
        "streams: {a: {detect: 'test://', fps: null}}",
        "streams:",
        "{}",
        "service: {token: '${TOKEN}'}",
        "defaults: {fps: 5}",
    ],
)
def test_valid_settings_match_the_schema(validator: jsonschema.protocols.Validator, text: str) -> None:
    assert list(validator.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "streams: {a: {}}",
        "streams: {a: {url: 'test://', detect: 'test://'}}",
        "streams: {a: {url: 'test://', transprot: tcp}}",
        "streams: {a: {url: 'test://', transport: tpc}}",
        "streams: {a: {url: 'test://', fps: -1}}",
        "streams: {a b: {url: 'test://'}}",
        "streams: {a: {url: 'test://', lines: {b: {from: [0], to: [1, 1]}}}}",
        "defaults: {url: 'test://'}",
        "servce: {}",
        "service: {port: 99999}",
    ],
)
def test_invalid_settings_do_not_match_the_schema(validator: jsonschema.protocols.Validator, text: str) -> None:
    assert list(validator.iter_errors(yaml.safe_load(text))) != []


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, part in (("", schema), *schema["$defs"].items()):
        for field, described in part.get("properties", {}).items():
            yield f"{name}.{field}", described


def test_every_field_is_described() -> None:
    fields = dict(properties(SCHEMA))
    assert len(fields) > 80
    assert [name for name, field in fields.items() if len(field.get("description", "")) < 5] == []


def test_the_schema_is_json_without_secrets() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    token = SCHEMA["$defs"]["ServiceSettings"]["properties"]["token"]
    assert "examples" not in token
    assert token["default"] is None
    assert token["anyOf"][0]["writeOnly"] is True
