"""Markdown of tables and of JSON Schema objects, shared by the reference pages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

TEXT = Path(__file__).with_name("text")
Schema = dict[str, Any]


def template(name: str, **parts: str) -> str:
    """Return a hand-written text of ``docs/generate/text`` with generated parts in place of its ``{{NAME}}`` markers."""
    text = (TEXT / name).read_text(encoding="utf-8")
    for key, part in parts.items():
        assert f"{{{{{key}}}}}" in text, f"{name} has no place for {key}"
        text = text.replace(f"{{{{{key}}}}}", part.strip("\n"))
    return text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; ``|`` and line ends in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Return the text as inline code."""
    return f"`{text}`"


def plain(text: str) -> str:
    """Return text in which Markdown and HTML mean nothing."""
    return re.sub(r"([*<])", lambda match: {"*": "\\*", "<": "&lt;"}[match[1]], text)


def anchor(heading: str) -> str:
    """Return the anchor that MkDocs gives a heading."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


class SchemaTables:
    """Writes the objects of a JSON Schema as tables of fields, each with a link to the tables it refers to.

    Args:
        definitions: The named objects, as in ``$defs`` or ``components/schemas``.
        link: Returns the link for the name of an object.
        default: Whether there is a column with defaults.
    """

    def __init__(self, definitions: Schema, link: Callable[[str], str], default: bool = True) -> None:
        self._definitions = definitions
        self._link = link
        self._default = default

    def fields(self, part: Schema) -> str:
        """Return the table of the fields of an object."""
        required = part.get("required", ())
        rows = []
        for name, field in part["properties"].items():
            row = [code(name), self.values(field)]
            if self._default:
                row.append("required" if name in required else self._default_of(field))
            rows.append([*row, self.description(field)])
        return table(["Field", "Type", "Default", "Description"] if self._default else ["Field", "Type", "Description"], rows)

    def description(self, field: Schema) -> str:
        """Return what describes a field: its own text, or else that of the object it refers to."""
        text: str = field.get("description", "")
        if not text and "$ref" in field:
            text = self._definitions[name_of(field["$ref"])].get("description", "")
        return text

    def values(self, field: Schema) -> str:
        """Return the type of a field in words."""
        for key in ("anyOf", "oneOf"):
            if key in field:
                return " or ".join(dict.fromkeys(self.values(choice) for choice in field[key]))
        if "$ref" in field:
            return self._reference(name_of(field["$ref"]))
        if "allOf" in field and len(field["allOf"]) == 1:
            return self.values(field["allOf"][0])
        if "const" in field:
            return code(json.dumps(field["const"]).strip('"'))
        if "enum" in field:
            return ", ".join(code(str(choice)) for choice in field["enum"])
        kind = field.get("type", "")
        if isinstance(kind, list):
            return " or ".join(self.values({**field, "type": one}) for one in kind)
        if kind == "array":
            return self._array(field)
        if kind == "object":
            return self._mapping(field)
        if field.get("format") in ("path", "password", "date-time", "binary"):
            return {"path": "path", "password": "secret", "date-time": "time", "binary": "bytes"}[field["format"]]
        return {"string": "string", "boolean": "`true` or `false`", "null": "`null`", "": "any"}.get(kind) or _number(kind, field)

    def _reference(self, name: str) -> str:
        part = self._definitions[name]
        if "properties" not in part and name != "Result":
            return self.values(part)
        return f"[{name}]({self._link(name)})"

    def _array(self, field: Schema) -> str:
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])} values: {', '.join(self.values(item) for item in field['prefixItems'])}"
        items = field.get("items", {})
        if items.get("type") == "array" and "prefixItems" in items:
            return "polygon: list of `[x, y]`"
        length = field.get("minItems")
        fixed = f"{length} × " if length and length == field.get("maxItems") else ""
        return f"list of {fixed}{self.values(items)}".replace("list of string", "list of strings")

    def _mapping(self, field: Schema) -> str:
        below = field.get("additionalProperties") or next(iter(field.get("patternProperties", {}).values()), None)
        if not isinstance(below, dict):
            return "object"
        return f"mapping of names to {self.values(below)}"

    def _default_of(self, field: Schema) -> str:
        default = field.get("default")
        if "default" not in field or default in ({}, []):
            return "none" if "$ref" not in field else "see there"
        if isinstance(default, list):
            return ", ".join(code(str(one)) for one in default)
        if isinstance(default, dict):
            return "see there"
        return code(default if isinstance(default, str) and default else json.dumps(default))


def name_of(reference: str) -> str:
    """Return the name at the end of a ``$ref``."""
    return reference.rpartition("/")[2]


def references(part: Any) -> list[str]:
    """Return the names that an object refers to, in order, each once."""
    found: dict[str, None] = {}
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            found[name_of(part["$ref"])] = None
        for below in part.values():
            found.update(dict.fromkeys(references(below)))
    elif isinstance(part, list):
        for below in part:
            found.update(dict.fromkeys(references(below)))
    return list(found)


def _number(kind: str, field: Schema) -> str:
    words = ["integer" if kind == "integer" else "number"]
    for key, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤")):
        if key in field:
            words.append(f"{sign} {field[key]:.10g}")
    return f"{words[0]} {', '.join(words[1:])}".strip()
