"""``docs/reference/api.md``: every route of the service, from its OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from docs.generate import results, service, settings
from docs.generate.markdown import Schema, SchemaTables, anchor, code, references, table, template
from tests.service.fakes import ADMIN, Api
from vision_infer.config.serve_schema import config_schema
from vision_infer.pipeline.status import StreamState
from vision_infer.service.http.api_models import DegradedAnswer, EngineEventAnswer, MovedAnswer, StateChange
from vision_infer.service.http.problem import KINDS, TYPE_PREFIX

EXAMPLES = {
    "state": StateChange(stream="gate", state=StreamState.STALLED, at="2026-11-24T18:00:00.123Z", reason="no frame for 1 s"),
    "engine": EngineEventAnswer(
        lane="nanodet-416",
        change="swapped",
        engine="openvino-cpu-fp32",
        at="2026-11-24T18:00:05.000Z",
        reason="instead of onnxruntime-cpu-fp32",
    ),
    "degraded": DegradedAnswer(
        stream="gate", step="substream", before="rate", at="2026-11-24T18:00:40.000Z", reason="6.1 of 10 fps, 97% busy"
    ),
    "moved": MovedAnswer(
        stream="gate",
        before="n1",
        node="n2",
        epoch=1795981354,
        at="2026-11-24T18:01:00.000Z",
        reason="runs on node n2 from now on",
    ),
}
FASTAPI_DEFAULT = "Successful Response"
EVERYWHERE = ("401", "421", "429", "default")
"""answers that every route may give; described once"""


def page() -> str:
    """Return the page for the routes as they are now."""
    api = service.make_api()
    document = service.document(api)
    schemas = document["components"]["schemas"]
    elsewhere = _elsewhere()
    tables = SchemaTables(schemas, lambda name: elsewhere.get(name, "#" + anchor(name)), default=False)
    by_tag: dict[str, list[str]] = {}
    index = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            title = f"{method.upper()} {path}"
            role = service.role_of(api, method, path, operation)
            text = operation.get("description", "")
            index.append([f"[{code(title)}](#{anchor(title)})", role, text.split("\n\n")[0]])
            by_tag.setdefault(operation["tags"][0], []).append(_route(title, role, operation, tables))
    routes = [f"## {tag.capitalize()}\n\n" + "\n".join(parts) for tag, parts in by_tag.items()]
    kinds = table(["Type", "Status", "Title"], [[code(kind), str(status), title] for kind, (status, title) in KINDS.items()])
    return template(
        "api.md",
        routes=table(["Route", "Role", "Purpose"], index),
        details="\n".join(routes),
        problems=kinds,
        problem=_example_problem(api),
        **{name: json.dumps(example.model_dump(mode="json")) for name, example in EXAMPLES.items()},
        prefix=TYPE_PREFIX,
        objects="\n".join(_objects(document, schemas, tables, elsewhere)),
    )


def _elsewhere() -> Mapping[str, str]:
    """Return the links of objects that other pages describe."""
    places = {name: f"settings.md#{anchor(path)}" for name, path in settings.paths_of(config_schema()).items()}
    places |= {name: f"results.md#{anchor(title)}" for name, title in results.TITLES.items()}
    return places | {"Problem": "#errors"}


def _route(title: str, role: str, operation: Schema, tables: SchemaTables) -> str:
    needs = "No token is needed." if role == "none" else f"Role: {code(role)}."
    parts = [f"### {title}", operation.get("description", ""), needs]
    parameters = [
        [code(one["name"]), one["in"], tables.values(one["schema"]), _default(one["schema"]), one.get("description", "")]
        for one in operation.get("parameters", ())
    ]
    if parameters:
        parts.append(table(["Parameter", "In", "Type", "Default", "Description"], parameters))
    body = operation.get("requestBody")
    if body:
        parts.append(f"Body: {_contents(body['content'], tables)}.")
    good = [
        [
            status,
            _contents(answer.get("content", {}), tables) or "no body",
            answer["description"].replace(FASTAPI_DEFAULT, "Success."),
        ]
        for status, answer in operation["responses"].items()
        if status.startswith("2") or (status == "503" and "application/json" in answer.get("content", {}))
    ]
    parts.append(table(["Status", "Body", "Meaning"], good))
    bad = sorted(status for status in operation["responses"] if status[0] in "45" and status not in EVERYWHERE)
    if bad:
        parts.append(f"Errors: {', '.join(bad)}.")
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _example_problem(api: Api) -> str:
    """Return the answer to a stream with a wrong value."""
    answer = api.ask("PUT", "/api/v1/streams/x", token=ADMIN, json={"detect": "rtsp://10.0.0.5/x", "fps": -1})
    return json.dumps(answer.json(), indent=2)


def _default(schema: Schema) -> str:
    default = schema.get("default")
    return "" if default is None else code(str(default).lower() if isinstance(default, bool) else str(default))


def _contents(content: Schema, tables: SchemaTables) -> str:
    parts = []
    for kind, one in content.items():
        opaque = kind.startswith(("text", "image", "video", "application/sdp"))
        parts.append(code(kind) if opaque else f"{code(kind)}: {tables.values(one['schema'])}")
    return ", ".join(parts)


def _objects(document: Schema, schemas: Schema, tables: SchemaTables, elsewhere: Mapping[str, str]) -> list[str]:
    parts = []
    wanted = references(document["paths"])
    for name in wanted:
        schema = schemas[name]
        if name in elsewhere or "properties" not in schema:
            continue
        wanted += [below for below in references(schema) if below not in wanted]
        parts.append(f"### {name}\n\n{schema.get('description', '')}\n\n{tables.fields(schema)}")
    return parts


def routes(api: Api) -> list[str]:
    """Return every route as it is titled on the page."""
    paths: dict[str, Any] = service.document(api)["paths"]
    return [f"{method.upper()} {path}" for path, operations in paths.items() for method in operations]
