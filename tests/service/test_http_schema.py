"""The OpenAPI document is valid and matches the responses, and no request generated from it breaks the service."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

import hypothesis
import pytest
import schemathesis
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.fakes import ADMIN, TOKENS, Api, FakeBackend
from vision_infer.config.zones import STREAM_NAME
from vision_infer.core.errors import RefusedError
from vision_infer.service.http.app import make_app
from vision_infer.service.http.routes import cameras

CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
ENDLESS = ["/api/v1/results", "/api/v1/streams/{name}/video.mjpeg"]
EXAMPLES, MORE_EXAMPLES = 30, 100
"""The number of requests to each path: in `make test`, and additionally in `make test-all`."""


def fresh_app() -> Any:
    backend = FakeBackend(requests_per_second=1_000_000)
    backend.put("made", "rtsp://user:secret@10.0.0.7/made", origin="api")
    return make_app(backend, TOKENS)


def drawn(examples: int) -> Callable[[Any], Any]:
    """Return the settings for the generation of requests."""
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )


@schemathesis.serializer("application/sdp", "application/trickle-ice-sdpfrag")
def as_text(_: Any, value: Any) -> bytes:
    """Generate text bodies for WHEP."""
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(autouse=True)
def _no_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither wait for answers of cameras nor send requests to generated addresses."""

    def refused(*_: object) -> NoReturn:
        raise RefusedError("http://10.0.0.9: authentication failed", "Check the user name and password.")

    monkeypatch.setattr(cameras, "discover", lambda _: [])
    monkeypatch.setattr(cameras, "camera_streams", refused)


schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", fresh_app(), headers={"Authorization": f"Bearer {ADMIN}"})


@schema.exclude(path=ENDLESS).parametrize()
@drawn(EXAMPLES)
def test_no_request_breaks_the_service(case: Any) -> None:
    ask(case)


@pytest.mark.slow
@schema.exclude(path=ENDLESS).parametrize()
@drawn(MORE_EXAMPLES)
def test_many_requests_do_not_break_the_service(case: Any) -> None:
    ask(case)


def ask(case: Any) -> None:
    """Send a generated request and check the response."""
    if isinstance(case.body, dict) and "detect" in case.body and len(case.body) % 2:
        # Random text is hardly ever a URL: half of the settings get one, so that some are valid.
        case.body = {
            key: value for key, value in case.body.items() if key not in ("view", "hook", "loop", "zones", "lines", "region")
        }
        case.body["detect"] = "rtsp://10.0.0.9/x"
    response = case.call(headers={"Authorization": f"Bearer {ADMIN}"})
    documented = case.operation.definition.raw["responses"]
    unavailable = response.status_code == 503 and "503" in documented  # a camera that delivers no frames
    case.validate_response(response, checks=CHECKS if unavailable else [not_a_server_error, *CHECKS])
    assert b"secret" not in response.content
    if response.status_code >= 400:
        assert response.headers["content-type"] == ["application/problem+json"]


def test_the_document_is_openapi_3_1_and_its_schemas_are_valid() -> None:
    document = Api().get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    for name, one in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(one)
        assert one, name
    text = json.dumps(document)
    for reference in set(text.split('"#/components/schemas/')[1:]):
        assert reference.partition('"')[0] in document["components"]["schemas"]
    assert "HTTPValidationError" not in text


def test_client_generators_understand_the_document() -> None:
    document = Api().get("/api/v1/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert {"list_streams", "put_stream", "get_snapshot", "get_video"} <= set(names)
    assert len(names) == len(set(names))
    assert max(map(len, names)) < 25
    # openapi-python-client writes code that cannot be imported for "const": true.
    assert '"const": true' not in json.dumps(document)
    # openapi-generator ignores these, and then sends fields that are not in the schema.
    assert "patternProperties" not in json.dumps(document)
    zones = document["components"]["schemas"]["StreamSettings"]["properties"]["zones"]
    assert zones["additionalProperties"] == {"$ref": "#/components/schemas/ZoneSettings"}
    assert zones["propertyNames"] == {"pattern": STREAM_NAME}


def test_only_images_accept_a_password() -> None:
    document = Api().get("/api/v1/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    found = {operation["operationId"] for operation in operations if {"password": []} in operation.get("security", ())}
    assert found == {"get_snapshot", "get_video"}


def test_every_operation_documents_its_errors() -> None:
    document = Api().get("/api/v1/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], (method, path)
            assert operation["operationId"]
            for status, answer in operation["responses"].items():
                if status == "default" or (status >= "400" and path != "/readyz"):
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)


@pytest.mark.parametrize("path", ["/redoc", "/openapi.json"])
def test_the_framework_serves_no_pages(path: str) -> None:
    assert Api().get(path).status_code == 404
