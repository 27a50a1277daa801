"""``docs/reference/settings.md``: every field of the configuration of ``serve``, from its JSON Schema."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from docs.generate.markdown import Schema, SchemaTables, anchor, name_of, template
from vision_infer.config.serve_file import load_settings
from vision_infer.config.serve_schema import config_schema
from vision_infer.core.errors import UsageError

DEFAULTS, STREAM = "StreamDefaults", "StreamSettings"
WRONG_FILE = "streams:\n  front:\n    detect: test://\n" + "\n" * 8 + "    fps: -1\n\n    transprot: tcp\n"
"""a configuration with two errors, in lines 12 and 14"""
WRONG_VARIABLE = {"VISION_INFER_SERVICE__PROT": "9000"}


def page() -> str:
    """Return the page for the settings as they are now."""
    schema = config_schema()
    paths = paths_of(schema)
    tables = SchemaTables(schema["$defs"], lambda name: "#" + anchor(paths.get(STREAM if name == DEFAULTS else name, name)))
    parts = ["## The whole file\n\n" + tables.fields(schema)]
    for name, path in sorted(paths.items(), key=lambda item: (not item[1].startswith("streams"), item[1])):
        part = schema["$defs"][name]
        if name == STREAM:
            part = {**part, "properties": {key: value for key, value in part["properties"].items() if key != "url"}}
            part["required"] = ["detect"]
        parts.append(f"## `{path}`\n\n{tables.fields(part)}")
    return template("settings.md", fields="\n".join(parts), errors="\n".join(f"    {line}" for line in example_errors()))


def paths_of(schema: Schema) -> dict[str, str]:
    """Return the place of each object in the file, such as ``service.tls``; that of the first field which refers to it."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, Schema]] = [("", schema)]
    while waiting:
        path, part = waiting.pop(0)
        for field, described in part["properties"].items():
            for name, below in _objects(described, f"{path}.{field}".removeprefix(".")):
                if name not in found and name != DEFAULTS and "properties" in schema["$defs"][name]:
                    found[name] = below
                    waiting.append((below, schema["$defs"][name]))
    return found


def _objects(described: Any, path: str) -> list[tuple[str, str]]:
    if not isinstance(described, dict):
        return []
    if "$ref" in described:
        return [(name_of(described["$ref"]), path)]
    found = []
    for key, below in described.items():
        if key in ("anyOf", "oneOf", "allOf"):
            found += [one for choice in below for one in _objects(choice, path)]
        elif key == "items":
            found += _objects(below, path)
        elif key == "additionalProperties":
            found += _objects(below, f"{path}.NAME")
        elif key == "patternProperties":
            found += [one for choice in below.values() for one in _objects(choice, f"{path}.NAME")]
    return found


def example_errors() -> list[str]:
    """Return the lines of an error: a wrong file and a wrong variable, as the program reports them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cameras.yaml"
        path.write_text(WRONG_FILE, encoding="utf-8")
        try:
            load_settings(path, [], WRONG_VARIABLE, {})
        except UsageError as error:
            places = r"(?=cameras\.yaml: |VISION_INFER_)(?<=[;:] )"
            return [part.strip("; ") for part in re.split(places, error.message.replace(f"{folder}/", ""))]
    raise AssertionError("the wrong configuration was accepted")
