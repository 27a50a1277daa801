"""Access to the Open Inference Protocol v2: tokens and rates, and the connections of gRPC."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.pipeline.fakes import LONG_S, SIDE, box_of, wait_for
from tests.service.fakes import ADMIN, OPEN, TOKENS, VIEW, FakeBackend
from tests.service.protocol_site import BOTH, ON, STATUS, Served, marked, site
from tests.service.site import Engines, Site, engines, settings
from tests.service.test_http_server import certificate
from tests.service.test_service_images import png
from tests.support.waiting import wait_until
from vision_infer.config.access.settings import AccessSettings
from vision_infer.config.serve import ServiceSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import UsageError
from vision_infer.service.backend import Backend
from vision_infer.service.grpc import server
from vision_infer.service.grpc.messages import MESSAGES, SERVICE
from vision_infer.service.grpc.server import GrpcServer
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.auth import Tokens
from vision_infer.service.inference_protocol.models import LocalModels

__all__ = ["engines", "site"]


@BOTH
def test_an_api_token_is_valid_until_it_is_revoked(kind: str, engines: Engines, tmp_path: Path) -> None:
    access = Access(AccessSettings.model_validate({"roles": {"viewer": ["door"]}}), tmp_path, SYSTEM_CLOCK)
    token, secret = access.tokens.create("ada", "person:ada", "viewer", "", 60)
    with Site(of=settings(service=ON)) as running, Served(running.service, TOKENS, access) as served:
        with served.client(kind, secret) as client:
            assert client.call("get_server_metadata")["name"]
        access.tokens.revoke(token.id)
        assert "invalid" in served.fails(401, kind, lambda client: client.call("get_server_metadata"), secret)
    (record,) = map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
    where = {"http": ("GET", "/v2"), "grpc": ("POST", f"/{SERVICE}/ServerMetadata")}[kind]
    assert (record["event"], record["method"], record["route"]) == ("refused", *where)
    assert (record["status"], record["address"]) == (401, "127.0.0.1")


@BOTH
def test_a_token_is_needed_as_elsewhere(kind: str, engines: Engines) -> None:
    with Site(of=settings(service=ON)) as running, Served(running.service, TOKENS) as served:
        for token, words in ((None, "authorization: Bearer TOKEN"), ("wrong-token-0123456789", "the token is invalid")):
            for call in (lambda client: client.call("get_server_metadata"), lambda client: client.infer(marked(1))):
                assert words.lower() in served.fails(401, kind, call, token).lower()
        for token in (ADMIN, VIEW):
            with served.client(kind, token) as client:
                assert client.infer(marked(1)).as_numpy("scores").shape == (1, 1)
        for _ in range(12):
            with served.client(kind, "wrong-token-0123456789") as client, pytest.raises(InferenceServerException) as caught:
                client.call("get_server_metadata")
        assert caught.value.status() in ("429", STATUS[429])
        with served.client(kind, ADMIN) as client:  # a valid token still works
            assert client.call("is_server_live")


@BOTH
def test_the_rate_of_requests_is_limited(kind: str, engines: Engines) -> None:
    slow = {**ON, "requests_per_second": 0.01}
    with Site(of=settings(service=slow)) as running, Served(running.service, OPEN) as served, served.client(kind) as client:
        client.call("is_server_live")
        assert "requests per second" in served.fails(429, kind, lambda other: other.call("get_server_metadata"))


@pytest.mark.parametrize("kind", ["grpc", "workers"])
def test_a_grpc_call_without_a_valid_message_is_explained(kind: str, site: Served) -> None:
    request = MESSAGES["ModelInferRequest"]
    values = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3]}
    with grpc.insecure_channel(site.addresses[kind]) as channel:
        call = channel.stream_unary(
            f"/{SERVICE}/ModelInfer", request.SerializeToString, MESSAGES["ModelInferResponse"].FromString
        )
        for message, words in (
            ([], "the call ended before its message arrived"),
            ([request(model_name="one", inputs=[values], raw_input_contents=[b"", b""])], "1 inputs have 2 raw_input_contents"),
            ([request(model_name="one", inputs=[values])], "input 'images' has no data"),
            ([request(model_name="one", inputs=[{**values, "contents": {"uint_contents": [300]}}])], "numbers of the type UINT8"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(iter(message), timeout=LONG_S)
            assert (caught.value.code(), words in caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        typed = {**values, "contents": {"uint_contents": marked(9, client=2).ravel().tolist()}}
        answer = call(iter([request(model_name="one", inputs=[typed])]), timeout=LONG_S)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == box_of(2, 9)
        image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [png()]}}
        answer = call(iter([request(model_name="one@image", inputs=[image])]), timeout=LONG_S)
        assert answer.raw_output_contents[3] == b"\x06\0\0\0person"
    for name in (".", "..", "", "one/..", "a?b"):
        site.fails(404, kind, lambda client, name=name: client.call("get_model_metadata", name))  # type: ignore[misc]


def test_grpc_connections_are_limited_and_a_message_waits_for_the_check_of_the_token(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    with Site(of=settings(service=ON)) as running, Served(running.service, TOKENS) as served:
        host, _, port = served.addresses["grpc"].rpartition(":")
        with socket.create_connection((host, int(port))) as first, socket.create_connection((host, int(port))) as second:
            for one in (first, second):
                assert one.recv(100)  # the settings of HTTP/2
            with socket.create_connection((host, int(port))) as third:
                third.settimeout(LONG_S)
                assert third.recv(100) == b""
        with grpc.insecure_channel(served.addresses["grpc"]) as channel:
            asked = threading.Event()

            def endless() -> Iterator[bytes]:
                wait_for(asked)  # never: the server refuses the call without its message
                yield b""

            with pytest.raises(grpc.RpcError) as caught:
                channel.stream_unary(f"/{SERVICE}/ModelInfer")(endless(), timeout=LONG_S, wait_for_ready=True)
            asked.set()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_port_in_use_is_reported(engines: Engines, site: Served) -> None:
    port = int(site.addresses["grpc"].rpartition(":")[2])
    with pytest.raises(UsageError, match=rf"cannot listen on 127\.0\.0\.1:{port} for gRPC\. Choose another service"):
        GrpcServer(site.service.settings.service, port, LocalModels(site.service), OPEN, SYSTEM_CLOCK)


def test_grpc_uses_the_certificate_of_the_service(engines: Engines, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "one")
    secure = {**ON, "tls": {"certificate": str(chain), "key": str(key)}}
    with Site(of=settings(service=secure)) as running:
        given = running.service.settings.service
        with GrpcServer(given, 0, LocalModels(running.service), OPEN, SYSTEM_CLOCK) as secured:
            found = ssl.get_server_certificate(("127.0.0.1", int(secured.address.rpartition(":")[2])), timeout=LONG_S)
    assert found.split() == chain.read_text().split()


def test_calls_without_a_message_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MESSAGE_S", 0.1)
    held = threading.Event()

    def silent() -> Iterator[Any]:
        held.wait(LONG_S)
        yield from ()

    serving = GrpcServer(ServiceSettings(), 0, LocalModels(cast(Backend, FakeBackend())), Tokens({}), SYSTEM_CLOCK)
    with serving, grpc.insecure_channel(serving.address) as channel:
        path, answer = f"/{SERVICE}/ServerLive", MESSAGES["ServerLiveResponse"].FromString
        call = channel.stream_unary(path, response_deserializer=answer)
        calls = [call.future(silent()) for _ in range(server.MAX_RUNNING)]
        wait_until(lambda: len(serving._waiting) == server.MAX_RUNNING, lambda: "the calls do not run")
        assert channel.unary_unary(path, response_deserializer=answer)(b"", timeout=LONG_S).live
        assert {one.code() for one in calls} == {grpc.StatusCode.CANCELLED}
        held.set()
