"""The JSON Schema of the service's configuration, for editors."""

from __future__ import annotations

from typing import Any

from vision_infer.config.fields import names_of
from vision_infer.config.serve import ServeFile, StreamUrls


def config_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of the file as written, before references and ``defaults`` are applied."""
    schema = ServeFile.model_json_schema(mode="validation")
    stream = schema["$defs"]["StreamSettings"]
    first, *others = names_of("detect", StreamUrls.model_fields["detect"])
    for other in others:
        stream["properties"][other] = stream["properties"][first]
    stream["required"] = [name for name in stream.get("required", ()) if name != first]
    stream["oneOf"] = [{"required": [name]} for name in (first, *others)]
    streams = schema["properties"]["streams"]
    streams["type"] = ["object", "null"]  # 'streams:' without content
    _close(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Configuration of vision-infer serve"}


def _close(schema: Any) -> None:
    """Make mappings reject invalid names."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema["additionalProperties"] = False
        for below in schema.values():
            _close(below)
    elif isinstance(schema, list):
        for below in schema:
            _close(below)
