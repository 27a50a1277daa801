"""``docs/reference/results.md``: rows of results, scene events, model cards, passports and recipes, from their JSON Schemas."""

from __future__ import annotations

from docs.generate.markdown import Schema, SchemaTables, anchor, template
from vision_infer.core.card import ModelCard
from vision_infer.core.result import RESULT_SCHEMA
from vision_infer.core.scene_event import SCENE_EVENT_SCHEMA
from vision_infer.engine.recipe import EngineRecipe
from vision_infer.engine.store.passport import Passport

TITLES = {
    "Result": "Result row",
    "Detection": "Detection",
    "Latency": "Latency",
    "SceneEvent": "Scene event",
    "ClassScore": "Class",
    "ModelCard": "Model card",
    "Passport": "Passport",
    "EngineRecipe": "Recipe",
}
PLAIN = ("Result", "Detection", "Latency", "SceneEvent", "ClassScore")
"""objects without defaults: they are written, not read"""


def page() -> str:
    """Return the page for the formats as they are now."""
    definitions = _row() | _models()
    titles = {name: TITLES.get(name, name) for name in definitions}
    link = {name: "#" + anchor(title) for name, title in titles.items()}
    parts: dict[str, str] = {}
    for name, schema in definitions.items():
        tables = SchemaTables(definitions, link.__getitem__, default=name not in PLAIN)
        if "properties" in schema:
            level = "##" if name in TITLES and name not in PLAIN[1:] else "###"
            texts = (f"{level} {titles[name]}", schema.get("description", ""), tables.fields(schema))
            parts[name] = "\n\n".join(text for text in texts if text)
    row = "\n".join(text for name, text in parts.items() if name in PLAIN)
    return template("results.md", row=row, models="\n".join(text for name, text in parts.items() if name not in PLAIN))


def _row() -> dict[str, Schema]:
    """Return the objects of a row as separate definitions; in its schema they are nested."""
    row = dict(RESULT_SCHEMA["properties"])
    detection = dict(row["detections"]["items"]["properties"])
    found: dict[str, Schema] = {}
    for name, field in row.items():
        if name in ("events", "skipped_events"):
            row[name] = {**field, "items": _to("SceneEvent")}
    if "classes" in row:
        classes = row["classes"]
        row["classes"] = detection["classes"] = {**classes, "items": _to("ClassScore")}
        found["ClassScore"] = classes["items"]
    found["Latency"] = row["latency_ms"]
    row["latency_ms"] = {**_to("Latency"), "description": row["latency_ms"].get("description", "Milliseconds by stage.")}
    row["detections"] = {**row["detections"], "items": _to("Detection")}
    result = {**RESULT_SCHEMA, "properties": row}
    return {"Result": result, "Detection": {"properties": detection}, "SceneEvent": SCENE_EVENT_SCHEMA, **found}


def _models() -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for model in (ModelCard, Passport, EngineRecipe):
        schema = model.model_json_schema()
        found[model.__name__] = {key: value for key, value in schema.items() if key != "$defs"}
        found |= schema.get("$defs", {})
    return found


def _to(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}
