"""Writes the tables of ``docs/serve-config.md`` from the settings themselves, or checks that they are up to date (``--check``).

The text around the tables is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from vision_infer.config.serve_schema import config_schema

PAGE = Path(__file__).with_name("serve-config.md")
TABLE = re.compile(r"(<!-- fields: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
LINKS = {
    "ServiceSettings": "service",
    "TlsSettings": "servicetls",
    "ResultsSettings": "results",
    "SinksSettings": "sinks",
    "MqttSettings": "sinksmqtt",
    "WebhookSettings": "sinkswebhook",
    "CostSettings": "cost",
    "ClipStoreSettings": "clips",
    "ClipSettings": "streamsclips",
    "PreviewSettings": "preview",
    "IceServer": "previewice_servers",
    "StreamDefaults": "streams-and-defaults",
    "StreamSettings": "streams-and-defaults",
    "Reconnect": "reconnect",
    "Region": "region",
    "ZoneSettings": "zones",
    "LineSettings": "lines",
}


def page(text: str) -> str:
    """The page with its tables as the settings are now."""
    schema = config_schema()
    return TABLE.sub(lambda match: f"{match[1]}\n{_table(match[2], schema)}\n{match[3]}", text)


def _table(name: str, schema: dict[str, Any]) -> str:
    part = schema if name == "ServeFile" else schema["$defs"][name]
    rows = ["| field | value | default | meaning |", "| --- | --- | --- | --- |"]
    for field, described in part["properties"].items():
        if field == "url" and "detect" in part["properties"]:  # the same under another name
            continue
        required = field in part.get("required", ()) or field == "detect"
        default = "needed" if required else _default(described)
        rows.append(f"| `{field}` | {_values(described)} | {default} | {described['description'].replace('|', '/')} |")
    return "\n".join(rows) + "\n"


def _default(described: dict[str, Any]) -> str:
    if "$ref" in described:
        return "as there"
    default = described.get("default", {})
    if default in ({}, []):
        return "none"
    if isinstance(default, list):
        return ", ".join(f"`{one}`" for one in default)
    return f"`{json.dumps(default)}`" if not isinstance(default, str) else f"`{default}`"


def _values(described: dict[str, Any]) -> str:
    if "anyOf" in described:
        return " or ".join(_values(one) for one in described["anyOf"])
    if "$ref" in described:
        name = described["$ref"].rpartition("/")[2]
        return f"[fields](#{LINKS[name]})"
    if "enum" in described:
        return ", ".join(f"`{one}`" for one in described["enum"])
    kind = described.get("type", "")
    if kind == "array":
        return _list(described)
    if kind == "object" or isinstance(kind, list):
        below: dict[str, Any] = described.get("additionalProperties") or next(
            iter(described.get("patternProperties", {}).values()), {}
        )
        return f"names, each with {_values(below)}"
    if described.get("format") in ("path", "password"):
        return {"path": "path", "password": "secret"}[described["format"]]
    return {"string": "text", "boolean": "`true`, `false`", "null": "`null`"}.get(kind) or _number(kind, described)


def _list(described: dict[str, Any]) -> str:
    if "prefixItems" in described:
        return "`[x, y]`"
    items = described["items"]
    if items.get("type") == "array" and "prefixItems" in items:
        return "polygon"
    return f"list of {_values(items)}".replace("list of polygon", "list of polygons").replace("list of text", "list of texts")


def _number(kind: str, described: dict[str, Any]) -> str:
    word = "whole number" if kind == "integer" else "number"
    bounds = []
    if "exclusiveMinimum" in described:
        bounds.append(f"> {described['exclusiveMinimum']:g}")
    if "minimum" in described:
        bounds.append(f"≥ {described['minimum']:g}")
    if "maximum" in described:
        bounds.append(f"≤ {described['maximum']:.10g}")
    return f"{word} {', '.join(bounds)}".strip()


def main() -> int:
    """Write the page, or compare it."""
    before = PAGE.read_text(encoding="utf-8")
    text = page(before)
    if "--check" in sys.argv[1:]:
        if text != before:
            print("docs/serve-config.md is out of date: run 'make format'", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
