"""A service with the Open Inference Protocol over HTTP and gRPC, and NVIDIA's client for Triton."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.pipeline.fakes import LONG_S, SIDE
from tests.service.fakes import ADMIN, OPEN
from tests.service.site import Engines, Site, engines, settings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.service.grpc.server import GrpcServer
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.app import make_app, make_routes
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.server import WebServer
from vision_infer.service.inference_protocol.models import LocalModels, Models
from vision_infer.service.processes.fleet_models import FleetModels
from vision_infer.service.processes.worker_client import WorkerClient
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.service import Service
from vision_infer.service.worker import WorkerGate

__all__ = ["engines"]

BOTH = pytest.mark.parametrize("kind", ["http", "grpc"])
ALL = pytest.mark.parametrize("kind", ["http", "grpc", "workers"])
"""``workers``: gRPC in front of a worker."""
ON = {"port": 0, "inference_protocol": {"grpc_port": 0}}
LIBRARIES = {"http": triton_http, "grpc": triton_grpc, "workers": triton_grpc}
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
        if self.kind != "http" and not isinstance(answer, bool):
            return json.loads(json.dumps(getattr(self.triton, name)(*given, headers=self.headers, as_json=True, **more)))
        return answer

    def infer(self, data: NDArray[Any], model: str = "one", name: str = "", binary: bool = True, **more: Any) -> Any:
        encoded = data.dtype == object
        given = self.library.InferInput(name or ("image" if encoded else "images"), list(data.shape), _datatype(data))
        given.set_data_from_numpy(data, **({"binary_data": binary} if self.kind == "http" else {}))
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
        with ExitStack() as stack:
            web = stack.enter_context(WebServer(given, self.service.hub))
            web.start(make_app(self.service, self.tokens, access=self.access))
            self.addresses["http"] = web.url.removeprefix("http://")
            for kind, models in (("grpc", LocalModels(self.service)), ("workers", stack.enter_context(one_worker(self.service)))):
                serving = GrpcServer(given, 0, models, self.tokens, SYSTEM_CLOCK, self.access)
                self.addresses[kind] = stack.enter_context(serving).address
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


@contextmanager
def one_worker(service: Service) -> Iterator[Models]:
    """Serve the API of a worker on a Unix socket, and yield its models."""
    with TemporaryDirectory() as folder, WebServer(service.settings.service, ResultHub(), Path(folder) / "socket") as web:
        app = make_routes(service, OPEN, SYSTEM_CLOCK)
        app.add_middleware(WorkerGate, security=app.state.context.security, token=ADMIN)
        web.start(app)
        client = WorkerClient(Path(folder) / "socket", ADMIN)
        workers: Any = SimpleNamespace(
            ready=service.ready,
            processes={"a": SimpleNamespace(ready=True)},
            placement=SimpleNamespace(of_worker=lambda _: {}),
            clients={"a": client},
        )
        yield FleetModels(workers, web.run, SYSTEM_CLOCK)
        if client._client is not None:
            web.run(client._client.aclose())


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
