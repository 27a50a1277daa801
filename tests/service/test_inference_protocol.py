"""The Open Inference Protocol v2 over HTTP and gRPC, with NVIDIA's client for Triton."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.pipeline.fakes import LONG_S, SIDE, EchoEngine, box_of, wait_for
from tests.pipeline.live_fakes import Camera
from tests.service.fakes import ADMIN, OPEN, TOKENS, VIEW, Api, FakeBackend
from tests.service.site import Engines, Site, engines, settings, wanted
from tests.service.test_http_server import certificate
from tests.service.test_service_images import png
from tests.support.media import ROOT
from tests.support.serve_process import ServeProcess
from tests.support.waiting import wait_until
from vision_infer.config.access.settings import AccessSettings
from vision_infer.config.serve import ServeSettings, ServiceSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import UsageError
from vision_infer.engine.engine import RawResults, Ticket
from vision_infer.service.backend import Backend
from vision_infer.service.grpc import server
from vision_infer.service.grpc.messages import MESSAGES, SERVICE
from vision_infer.service.grpc.server import GrpcServer
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.server import WebServer
from vision_infer.service.results.requests import MAX_WAITING
from vision_infer.service.service import Service

__all__ = ["engines"]

BOTH = pytest.mark.parametrize("kind", ["http", "grpc"])
ON = {"port": 0, "inference_protocol": {"grpc_port": 0}}
LIBRARIES = {"http": triton_http, "grpc": triton_grpc}
STATUS = {  # of HTTP and gRPC
    400: "StatusCode.INVALID_ARGUMENT",
    401: "StatusCode.UNAUTHENTICATED",
    404: "StatusCode.NOT_FOUND",
    429: "StatusCode.RESOURCE_EXHAUSTED",
    503: "StatusCode.UNAVAILABLE",
    504: "StatusCode.DEADLINE_EXCEEDED",
}


class HttpClient(triton_http.InferenceServerClient):  # type: ignore[misc]
    """A client that closes its connections in the thread that uses it: gevent refuses the garbage collector's thread."""

    def __del__(self) -> None:
        pass


class Client:
    """A client of one of the transports, for one thread."""

    def __init__(self, kind: str, address: str, token: str | None = None) -> None:
        self.kind = kind
        self.library: Any = LIBRARIES[kind]
        made = HttpClient(address, network_timeout=LONG_S) if kind == "http" else triton_grpc.InferenceServerClient(address)
        self.triton: Any = made
        self._token = token

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.triton.close()

    @property
    def headers(self) -> dict[str, str]:
        return {} if self._token is None else {"authorization": f"Bearer {self._token}"}

    def call(self, name: str, *given: Any, **more: Any) -> Any:
        answer = getattr(self.triton, name)(*given, headers=self.headers, **more)
        if self.kind == "grpc" and not isinstance(answer, bool):
            return json.loads(json.dumps(getattr(self.triton, name)(*given, headers=self.headers, as_json=True, **more)))
        return answer

    def infer(self, data: NDArray[Any], model: str = "one", name: str = "", binary: bool = True, **more: Any) -> Any:
        encoded = data.dtype == object
        given = self.library.InferInput(name or ("image" if encoded else "images"), list(data.shape), _datatype(data))
        given.set_data_from_numpy(data, **({} if self.kind == "grpc" else {"binary_data": binary}))
        return self.triton.infer(model, [given], headers=self.headers, **more)


def _datatype(data: NDArray[Any]) -> str:
    return "BYTES" if data.dtype == object else {"uint8": "UINT8", "float32": "FP32"}[str(data.dtype)]


@dataclass
class Served:
    """A service whose two addresses are open."""

    service: Service
    tokens: Tokens
    access: Access | None = None
    addresses: dict[str, str] = field(default_factory=dict)

    def client(self, kind: str, token: str | None = None) -> Client:
        return Client(kind, self.addresses[kind], token)

    def infer(self, kind: str, data: NDArray[Any]) -> Any:
        """Run inference with a client of this thread."""
        with self.client(kind) as client:
            return client.infer(data)

    def fails(self, status: int, kind: str, call: Callable[[Client], object], token: str | None = None) -> str:
        """Return the message of the error with which a call fails."""
        with self.client(kind, token) as client, pytest.raises(InferenceServerException) as caught:
            call(client)
        wanted = str(status) if kind == "http" else STATUS[status]
        assert caught.value.status() == wanted, caught.value
        return str(caught.value.message())

    def __enter__(self) -> Served:
        given = self.service.settings.service
        self._web = WebServer(given, self.service.hub)
        self._web.start(make_app(self.service, self.tokens, access=self.access))
        self._grpc = GrpcServer(given, 0, self.service, self.tokens, SYSTEM_CLOCK, self.access)
        self._grpc.__enter__()
        self.addresses = {"http": self._web.url.removeprefix("http://"), "grpc": self._grpc.address}
        return self

    def __exit__(self, *_: object) -> None:
        self._grpc.__exit__()
        self._web.stop()


@pytest.fixture
def site(engines: Engines) -> Iterator[Served]:
    with Site(of=settings(service=ON)) as running, Served(running.service, OPEN) as served:
        yield served


def marked(*numbers: int, client: int = 0) -> NDArray[np.uint8]:
    """Return a tensor of images from which the engine reads these numbers, and that of the client."""
    images = np.zeros((len(numbers), SIDE, SIDE, 3), np.uint8)
    images[:, 0, 0] = [(number, client, 0) for number in numbers]
    return images


def encoded(data: bytes) -> NDArray[Any]:
    return np.array([data], object)


def test_the_protocol_is_off_unless_it_is_configured() -> None:
    assert Api().get("/v2/health/live").status_code == 404
    assert ServiceSettings().inference_protocol is None


@BOTH
def test_health_and_metadata(kind: str, site: Served) -> None:
    with site.client(kind) as client:
        assert client.call("is_server_live")
        assert client.call("is_server_ready")
        assert client.call("get_server_metadata")["name"]
        assert not client.call("is_model_ready", "nanodet-416")  # known, but not loaded
        assert client.call("get_server_metadata")["extensions"] == ["binary_tensor_data"]
        tensors = client.call("get_model_metadata", "one", "1")
        images = client.call("get_model_metadata", "one@image")
    assert tensors["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": _shown(kind, -1, SIDE, SIDE, 3)}]
    assert [output["name"] for output in tensors["outputs"]] == ["boxes", "scores", "class_ids"]
    assert images["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": _shown(kind, 1)}]
    assert [output["name"] for output in images["outputs"]] == ["boxes", "scores", "class_ids", "labels", "result"]
    assert "unknown model 'none'" in site.fails(404, kind, lambda client: client.call("get_model_metadata", "none"))
    assert "no version '7'" in site.fails(404, kind, lambda client: client.call("get_model_metadata", "one", "7"))


def _shown(kind: str, *shape: int) -> list[Any]:
    return list(shape) if kind == "http" else list(map(str, shape))


@pytest.mark.parametrize(("kind", "binary"), [("http", True), ("http", False), ("grpc", True)])
def test_a_tensor_gives_the_outputs_of_the_graph(kind: str, binary: bool, site: Served) -> None:
    with site.client(kind) as client:
        more: dict[str, Any] = (
            {} if binary else {"outputs": [triton_http.InferRequestedOutput(name, binary) for name in ("boxes", "scores")]}
        )
        answer = client.infer(marked(5, 7, 6, client=3), binary=binary, request_id="four", **more)
        boxes = answer.as_numpy("boxes")
        assert boxes.shape == (3, 1, 4)
        assert boxes[:, 0].tolist() == [box_of(3, number) for number in (5, 7, 6)]
        np.testing.assert_allclose(answer.as_numpy("scores"), np.full((3, 1), 0.9, np.float32))
        assert (answer.as_numpy("class_ids") is None) == (not binary)
        response = answer.get_response()
        assert (response["id"] if kind == "http" else response.id) == "four"
        only = client.infer(marked(1), outputs=[client.library.InferRequestedOutput("scores")])
        assert (only.as_numpy("scores").shape, only.as_numpy("boxes")) == ((1, 1), None)


@BOTH
def test_an_encoded_image_gives_detections(kind: str, site: Served) -> None:
    with site.client(kind) as client:
        answer = client.infer(encoded(png(size=(2 * SIDE, SIDE))), "one@image")
    assert answer.as_numpy("labels").tolist() == [b"person"]
    x1, y1, x2, y2 = box_of(7, 7 + 256 * 7)
    assert answer.as_numpy("boxes").tolist() == [[2 * x1, y1, 2 * x2, y2]]  # in pixels of the image, which is twice as wide
    assert (answer.as_numpy("class_ids").tolist(), answer.as_numpy("scores").dtype) == ([0], np.float32)
    assert json.loads(answer.as_numpy("result")[0])["detections"][0]["label"] == "person"


def test_json_alone_is_enough(site: Served) -> None:
    url = f"http://{site.addresses['http']}/v2/models/one@image/versions/1/infer"
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png()).decode()]}
    answer = httpx.post(url, json={"inputs": [image]})
    assert answer.status_code == 200
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    assert outputs["labels"] == {"name": "labels", "datatype": "BYTES", "shape": [1], "data": ["person"]}
    assert outputs["boxes"]["shape"] == [1, 4]


@BOTH
@pytest.mark.parametrize(
    ("data", "name", "model", "words"),
    [
        (marked(1), "pixels", "one", "unknown input 'pixels'. The input is 'images'."),
        (marked(1).astype(np.float32), "", "one", "has the datatype FP32. Send UINT8."),
        (marked(1)[:, :8], "", "one", f"has the shape [1, 8, {SIDE}, 3]. Send [-1, {SIDE}, {SIDE}, 3]"),
        (encoded(png()), "images", "one", "has the datatype BYTES. Send UINT8."),
        (encoded(b"no image"), "", "one@image", "the image format is not supported"),
        (np.array([png(), png()], object), "", "one@image", "has the shape [2]. Send [1]"),
        (np.zeros((MAX_WAITING + 1, SIDE, SIDE, 3), np.uint8), "", "one", "65 images are too many for one request"),
    ],
)
def test_a_wrong_input_is_explained(kind: str, data: NDArray[Any], name: str, model: str, words: str, site: Served) -> None:
    assert words in site.fails(400, kind, lambda client: client.infer(data, model, name))


@BOTH
def test_an_unknown_output_or_model_is_explained(kind: str, site: Served) -> None:
    wanted = [LIBRARIES[kind].InferRequestedOutput("masks")]
    message = site.fails(400, kind, lambda client: client.infer(marked(1), outputs=wanted))
    assert message == "unknown output 'masks'. The outputs are boxes, scores, class_ids."
    site.fails(404, kind, lambda client: client.infer(marked(1), "none"))
    message = site.fails(503, kind, lambda client: client.infer(marked(1), "nanodet-416"))
    assert message == "nanodet-416 is not loaded. Use a model that a stream uses."


ONE = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3]}
IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("body", "length", "words"),
    [
        (b"{", None, "the body is not valid JSON"),
        ({"inputs": "none"}, None, "inputs: input should be a valid array"),
        ({"inputs": []}, None, "0 inputs were sent"),
        ({"inputs": [ONE]}, None, "input 'images' has no data"),
        ({"inputs": [{**ONE, "data": [1, 2]}]}, None, "has 2 elements, but its shape has 196608"),
        ({"inputs": [{**ONE, "data": [[1, 2], [3]]}]}, None, "are not numbers of the type UINT8"),
        ({"inputs": [{**ONE, "data": [256]}]}, None, "are not numbers of the type UINT8"),
        ({"inputs": [{**ONE, "data": [True]}]}, None, "are not numbers of the type UINT8"),
        ({"inputs": [{**ONE, "data": [1e999]}]}, None, "are not numbers of the type UINT8"),
        ({"inputs": [{**ONE, "data": [10**400]}]}, None, "are not numbers of the type UINT8"),
        ({"inputs": [{**IMAGE, "data": ["%%"]}]}, None, "are not text in Base64"),
        ({"inputs": [{**IMAGE, "data": [7]}]}, None, "are not text in Base64"),
        ({"inputs": [{**IMAGE, "data": [["QQ=="], ["QQ=="]]}]}, None, "has 2 elements"),
        (
            {"inputs": [{**ONE, "parameters": {"binary_data_size": 9}}]},
            None,
            "binary_data_size of input 'images' is not",
        ),
        ({"inputs": [{**ONE, "parameters": {"binary_data_size": "x"}}]}, None, "is not a length within the body"),
        ({"inputs": [ONE], "parameters": {"timeout": "soon"}}, None, "the parameter timeout is not a positive integer"),
        ({"inputs": [ONE]}, "9999", "is not the length of the JSON in this body"),
        ({"inputs": [ONE]}, "-1", "is not the length of the JSON in this body"),
        (b'{"inputs": []} and more', "14", "9 bytes after the last input"),
        (b'{"inputs": [' + b'{"name": "a", "shape": [1], "datatype": "UINT8"},' * 20 + b"]}", None, "the body is not valid JSON"),
    ],
)
def test_a_malformed_body_is_explained(body: Any, length: str | None, words: str, site: Served) -> None:
    model = "one@image" if b'"image"' in (content := body if isinstance(body, bytes) else json.dumps(body).encode()) else "one"
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    answer = httpx.post(f"http://{site.addresses['http']}/v2/models/{model}/infer", content=content, headers=headers)
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text


def test_a_message_that_is_too_large_is_refused(engines: Engines) -> None:
    small = {**ON, "max_upload_mb": 0.1}
    with Site(of=settings(service=small)) as running, Served(running.service, OPEN) as served:
        with served.client("grpc") as client, pytest.raises(InferenceServerException, match="larger than max"):
            client.infer(marked(1))
        url = f"http://{served.addresses['http']}/v2/models/one/infer"
        answer = httpx.post(url, content=bytes(200_000))
        assert (answer.status_code, answer.json()["error"]) == (413, "the request body exceeds 100000 bytes")
        packed = httpx.post(url, content=b"x", headers={"Content-Encoding": "gzip"})
        assert packed.status_code == 415


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
    where = {"http": ("GET", ""), "grpc": ("POST", f"/{SERVICE}/ServerMetadata")}[kind]
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


def test_a_grpc_call_without_a_valid_message_is_explained(site: Served) -> None:
    request = MESSAGES["ModelInferRequest"]
    values = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3]}
    with grpc.insecure_channel(site.addresses["grpc"]) as channel:
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


class Gate:
    """Stops the engines in their next batches, which it records, until it opens."""

    def __init__(self, engines: Engines) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        """The (client, number) of the images of each batch, in the order of their start."""
        self.entered = threading.Event()
        self.open = threading.Event()
        engines.run = self._run

    def _run(self, model: str, batch: list[tuple[int, int]]) -> None:
        self.batches.append(batch)
        self.entered.set()
        wait_for(self.open)


def waiting(served: Served) -> int:
    return sum(len(source._futures) for source in served.service._lanes._sources.values())


@BOTH
def test_a_request_ends_at_its_deadline_and_is_not_inferred_later(kind: str, engines: Engines, site: Served) -> None:
    gate = Gate(engines)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(site.infer, kind, marked(*range(30), client=9))  # more than the pipeline takes at once
        wait_for(gate.entered)
        message = site.fails(504, kind, lambda client: client.infer(marked(77, client=8), timeout=30_000))
        assert message == "the deadline has passed before there was a result. Allow more time, or send fewer requests."
        if kind == "grpc":
            with site.client(kind) as client, pytest.raises(InferenceServerException) as caught:
                client.infer(marked(77, client=8), client_timeout=0.05)
            assert caught.value.status() == STATUS[504]
            wait_until(lambda: waiting(site) == 30, lambda: f"{waiting(site)} images wait")
        gate.open.set()
        assert first.result(LONG_S).as_numpy("boxes").shape == (30, 1, 4)
        assert site.infer(kind, marked(5)).as_numpy("boxes").shape == (1, 1, 4)
    assert all(client != 8 for batch in gate.batches for client, _ in batch)


@BOTH
def test_requests_are_refused_while_too_many_images_wait(kind: str, engines: Engines, site: Served) -> None:
    gate = Gate(engines)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(site.infer, kind, marked(*range(MAX_WAITING)))
        wait_for(gate.entered)
        wait_until(lambda: waiting(site) == MAX_WAITING)
        assert "64 images are already waiting" in site.fails(429, kind, lambda client: client.infer(marked(1)))
        gate.open.set()
        boxes = first.result(LONG_S).as_numpy("boxes")
        assert boxes[:, 0].tolist() == [box_of(0, number) for number in range(MAX_WAITING)]
        assert site.infer(kind, marked(1)).as_numpy("boxes").shape == (1, 1, 4)


def test_requests_and_a_camera_share_batches_and_the_camera_is_not_delayed(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = EchoEngine.collect

    def ten_ms_each(engine: EchoEngine, ticket: Ticket) -> RawResults:
        return RawResults(collect(engine, ticket).outputs, 0, 10_000_000 * len(ticket.state))

    monkeypatch.setattr(EchoEngine, "collect", ten_ms_each)
    camera = Camera(0)
    with Site(camera, of=settings(service=ON, workers=1)) as running, Served(running.service, OPEN) as served:
        running.service.create("s0", wanted(camera))
        running.give(camera)
        gate = Gate(engines)
        clients = [(kind, number) for kind in ("http", "grpc") for number in range(8)]
        with ThreadPoolExecutor(len(clients)) as pool:

            def ask(kind: str, number: int) -> Any:
                return served.infer(kind, marked(number, client=100 if kind == "http" else 101)).as_numpy("boxes")

            answers = [pool.submit(ask, *one) for one in clients]
            wait_until(lambda: waiting(served) == len(clients))
            wait_for(gate.entered)

            def inside() -> int:
                return served.service.lanes()[0].waiting + sum(map(len, gate.batches))

            wait_until(lambda: inside() == 12, lambda: f"the window of the requests to be full, it has {inside()}")
            camera.give()
            wait_until(lambda: inside() == 13, "the frame to wait")
            before = len(gate.batches)
            gate.open.set()
            for (kind, number), answer in zip(clients, answers, strict=True):
                assert answer.result(LONG_S)[0, 0].tolist() == box_of(100 if kind == "http" else 101, number)
        after = gate.batches[before:]
        assert any(client == 0 for batch in after[:2] for client, _ in batch), after
        assert any(len({client for client, _ in batch}) > 1 for batch in gate.batches), gate.batches
        wait_until(lambda: len(running.sink.indices("s0")) == 2)
        assert {name for name, _, _ in running.sink.written} == {"s0"}


@BOTH
def test_a_failed_engine_and_a_stopped_service_are_reported(kind: str, engines: Engines, site: Served) -> None:
    def fail(model: str, batch: object) -> None:
        raise RuntimeError("out of memory")

    engines.run = fail
    assert "has no result" in site.fails(503, kind, lambda client: client.infer(marked(1)))
    engines.run = lambda model, batch: None
    with site.client(kind) as client:
        assert client.infer(marked(1)).as_numpy("scores").shape == (1, 1)
    site.service.close()
    assert "stopping" in site.fails(503, kind, lambda client: client.infer(marked(1)))
    with site.client(kind) as client:
        assert client.call("is_server_live")
        assert not client.call("is_server_ready")


def test_a_port_in_use_is_reported(engines: Engines, site: Served) -> None:
    port = int(site.addresses["grpc"].rpartition(":")[2])
    with pytest.raises(UsageError, match=rf"cannot listen on 127\.0\.0\.1:{port} for gRPC\. Choose another service"):
        GrpcServer(site.service.settings.service, port, site.service, OPEN, SYSTEM_CLOCK)


def test_grpc_uses_the_certificate_of_the_service(engines: Engines, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "one")
    secure = {**ON, "tls": {"certificate": str(chain), "key": str(key)}}
    with Site(of=settings(service=secure)) as running:
        given = running.service.settings.service
        with GrpcServer(given, 0, running.service, OPEN, SYSTEM_CLOCK) as secured:
            found = ssl.get_server_certificate(("127.0.0.1", int(secured.address.rpartition(":")[2])), timeout=LONG_S)
    assert found.split() == chain.read_text().split()


@pytest.mark.usefixtures("bundled")
def test_outputs_equal_those_of_onnx_runtime_for_many_clients_at_once() -> None:
    """The bundled model: each client gets the outputs of the image that it sent, and images of several clients share batches."""
    of = ServeSettings(model="nanodet-416", engine="onnxruntime-cpu-fp32", batch=4, workers=1, service=ServiceSettings(**ON))
    images = np.random.default_rng(1).integers(0, 256, (12, 1, 416, 416, 3)).astype(np.uint8)
    with Service(of) as service, Served(service, OPEN) as served, ThreadPoolExecutor(len(images)) as pool:
        service.start()
        wait_until(lambda: service.ready()[0])

        def ask(number: int) -> list[NDArray[Any]]:
            with served.client("http" if number % 2 else "grpc") as client:
                answer = client.infer(images[number], "nanodet-416")
                return [answer.as_numpy(name) for name in ("boxes", "scores", "class_ids")]

        answers = list(pool.map(ask, range(len(images))))
        assert max(service.lanes()[0].batches) > 1, service.lanes()[0].batches
    session = onnxruntime.InferenceSession(ROOT / "models" / "nanodet-416" / "model.onnx", providers=["CPUExecutionProvider"])
    for image, (boxes, scores, class_ids) in zip(images, answers, strict=True):
        wanted = session.run(["boxes", "scores", "class_ids"], {"images": image})
        np.testing.assert_allclose(scores, wanted[1], atol=1e-4)
        same = class_ids == wanted[2]
        assert same.mean() > 0.95  # candidates with nearly equal scores may change places
        np.testing.assert_allclose(boxes[same], wanted[0][same], atol=0.5)


@pytest.mark.slow
def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    """The configuration and the program of docs/how-to/inference-protocol.md, next to a camera."""
    page = (ROOT / "docs" / "how-to" / "inference-protocol.md").read_text(encoding="utf-8")
    (configuration,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    configuration = configuration.replace("8081", "0") + "streams: {s0: {url: 'test://?size=320x180&fps=5'}}\n"
    with ServeProcess(tmp_path, configuration) as process:
        grpc_address = re.search(r"over gRPC on (\S+)", process.log)
        assert grpc_address, process.log
        by_http = program.replace("tritonclient.grpc", "tritonclient.http").replace(", client_timeout=5", "")
        for text, address in ((program, grpc_address[1]), (by_http, f"127.0.0.1:{process.port}")):
            command = [sys.executable, "-c", text.replace("127.0.0.1:8081", address)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG_S * 2, check=False)
            assert (done.returncode, "b'car'" in done.stdout) == (0, True), done.stderr
        process.wait(lambda: process.streams()["s0"]["status"]["results"] > 5, "results of the camera")
        assert process.stop()[0] == 0


def test_calls_without_a_message_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MESSAGE_S", 0.1)
    held = threading.Event()

    def silent() -> Iterator[Any]:
        held.wait(LONG_S)
        yield from ()

    serving = GrpcServer(ServiceSettings(), 0, cast(Backend, FakeBackend()), Tokens({}), SYSTEM_CLOCK)
    with serving, grpc.insecure_channel(serving.address) as channel:
        path, answer = f"/{SERVICE}/ServerLive", MESSAGES["ServerLiveResponse"].FromString
        call = channel.stream_unary(path, response_deserializer=answer)
        calls = [call.future(silent()) for _ in range(server.MAX_RUNNING)]
        wait_until(lambda: len(serving._waiting) == server.MAX_RUNNING, lambda: "the calls do not run")
        assert channel.unary_unary(path, response_deserializer=answer)(b"", timeout=LONG_S).live
        assert {one.code() for one in calls} == {grpc.StatusCode.CANCELLED}
        held.set()
