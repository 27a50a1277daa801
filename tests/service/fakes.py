"""A fake backend made of plain values, and HTTP clients without a network."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray

from tests.support.hand_clock import HandClock
from vision_infer.analyze.zones import Zones
from vision_infer.config.serve import ServeSettings, ServiceSettings, StreamSettings
from vision_infer.core.card import ModelCard
from vision_infer.core.detections import Detections
from vision_infer.core.errors import UsageError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.result import LiveAccount, Result
from vision_infer.core.scene_event import SceneEvent
from vision_infer.core.trace import Latency, Trace
from vision_infer.pipeline.status import Flight, LaneStatus, StreamState, StreamStatus
from vision_infer.preview.preview import Preview
from vision_infer.service.clips.clip_recorder import Clips
from vision_infer.service.errors import ConflictError, UnavailableError, UnknownStreamError
from vision_infer.service.events import ServiceEvent
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.token_file import digest_of
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.streams.cost import Cost, MachineUsage, cost_of
from vision_infer.service.views import ModelView, NodeView, Snapshot, StreamView
from vision_infer.sink.delivery.carrier import SinkStatus
from vision_infer.stream.image import ArrayImage
from vision_infer.telemetry.histogram import Histogram

LONG_S = 30.0
LABELS = ("person", "bicycle", "car")
JPEG = b"\xff\xd8\xff\xe0 an image, for example \xff\xd9"
ADMIN = "the-token-of-an-admin-0123456789"
VIEW = "the-token-of-a-viewer-0123456789"
TOKENS = Tokens({digest_of(ADMIN): "admin", digest_of(VIEW): "view"})
OPEN = Tokens({})
NOWHERE = Path("/nonexistent/clips")
WALL_NS = 1_700_000_000_000_000_000


def frame(stream: str = "door", index: int = 0) -> Frame:
    return Frame(stream, index, index / 25, ArrayImage(np.zeros((48, 64, 3), np.uint8)), Trace())


def result(
    stream: str = "door",
    index: int = 0,
    found: Mapping[str, float] | None = None,
    events: tuple[SceneEvent, ...] = (),
) -> Result:
    """Return a result with one detection for each of these labels and scores."""
    chosen = {"person": 0.9, "car": 0.4} if found is None else found
    detections = Detections(
        np.tile(np.array([1, 2, 30, 40], np.float32), (len(chosen), 1)),
        np.array(list(chosen.values()), np.float32),
        np.array([LABELS.index(label) for label in chosen], np.int32),
        LABELS,
    )
    live = LiveAccount(WALL_NS, 50_000_000, "arrival", {"superseded": 2})
    latency = Latency(1, 2, 3, 4, 5, 15)
    return Result(stream, index, index / 25, Size(64, 48), "tiny", "null-cpu-none", detections, latency, live=live, events=events)


def status(name: str = "door", state: StreamState = StreamState.LIVE, **more: Any) -> StreamStatus:
    ages = Histogram()
    for age_ms in (50, 80, 95.5, 120):
        ages.record(round(age_ms * 1e6))
    one = StreamStatus(
        name=name,
        source="rtsp://user:***@10.0.0.5/door",
        state=state,
        frames_expected=None,
        frame_rate=25.0,
        decoded=1000,
        results=900,
        detections=1800,
        gaps=3,
        ingest="rtp",
        damaged=5,
        rtp_packets={"received": 9_900, "lost": 100, "late": 1, "reordered": 2, "duplicates": 3, "foreign": 4, "damaged": 6},
        rtp_frames={"whole": 990, "damaged": 10, "cut": 0, "oversize": 1},
        dropped={"superseded": 90, "stale": 7},
        error=None,
        image_bytes=0,
        live=True,
        since_wall_ns=WALL_NS,
        size=(640, 480),
        codec="h264",
        reconnects=2,
        gpu_decoder_failures=1,
        last_frame_ns=10**12 - 40_000_000,
        clock="arrival",
        lane="main",
        model="tiny",
        engine="null-cpu-none",
        age_ms={"p50": 50.0, "p95": 80.0, "p99": 95.5, "max": 120.0},
        ages=ages,
        engine_ns=5_000_000_000,
        occupancy={"yard": 2},
        counts={"gate": (5, 4)},
    )
    return replace(one, **more)


class FakeBackend:
    """A backend that keeps streams in a dictionary; everything else is constant or set by the test."""

    def __init__(self, **service: Any) -> None:
        self.settings = ServeSettings(service=ServiceSettings(**service))
        self.hub = ResultHub(self.settings.service.max_clients, self.settings.service.max_streams)
        self.preview = Preview(self.settings.preview)
        self.clips = Clips(self.settings.clips, NOWHERE)
        self.nodes: FakeNodes | None = None
        self.shadow: Any = None
        self.is_ready = (True, "")
        self.kept: dict[str, StreamView] = {}
        self.lock = threading.Lock()
        self.broken: Exception | None = None
        self.pictures: list[tuple[bytes, str | None, float | None, tuple[str, ...] | None]] = []
        self.published: list[ServiceEvent] = []
        self.flight_record: Flight | None = None
        self.counted: Zones | None = None
        self.sink_statuses: list[SinkStatus] = []
        self.machine = MachineUsage(cores=2, used=0.5, others=0.1)
        self.histograms = {"decode": Histogram(), "inference": Histogram()}
        self.put("door", "rtsp://user:secret@10.0.0.5/door?token=abc")

    def put(self, name: str, url: str, origin: Any = "file", **more: Any) -> StreamView:
        view = StreamView(name, origin, StreamSettings(detect=url), status(name, **more))
        self.kept[name] = view
        return view

    def ready(self) -> tuple[bool, str]:
        return self.is_ready

    def streams(self) -> list[StreamView]:
        if self.broken is not None:
            raise self.broken
        return list(self.kept.values())

    def stream(self, name: str) -> StreamView:
        view = self.kept.get(name)
        if view is None:
            raise UnknownStreamError(f"stream {name} does not exist", "GET /api/v1/streams lists them")
        return view

    def create(self, name: str, settings: StreamSettings) -> StreamView:
        with self.lock:
            if name in self.kept:
                raise ConflictError(f"stream {name} already exists")
            if len(self.kept) >= self.settings.service.max_streams:
                raise ConflictError("the limit of streams is reached")
            return self._keep(name, settings)

    def replace(self, name: str, settings: StreamSettings) -> StreamView:
        with self.lock:
            if self.stream(name).origin == "file":
                raise ConflictError(f"stream {name} is defined in the configuration file", "change it there")
            return self._keep(name, settings)

    def _keep(self, name: str, settings: StreamSettings) -> StreamView:
        if settings.model == "nonsense":
            raise UsageError("unknown model 'nonsense'")
        shown = status(name, StreamState.CONNECTING) if settings.enabled else None
        view = self.kept[name] = StreamView(name, "api", settings, shown)
        return view

    def delete(self, name: str) -> None:
        with self.lock:
            if self.stream(name).origin == "file":
                raise ConflictError(f"stream {name} is defined in the configuration file", "change it there")
            del self.kept[name]

    def snapshot(self, name: str, annotated: bool, timeout_s: float) -> Snapshot:
        view = self.stream(name)
        if view.status is None or view.status.state is not StreamState.LIVE:
            raise UnavailableError(f"{name} delivers no frames", "", "connecting", "rtsp://a:b@host/ does not answer")
        return Snapshot(JPEG, WALL_NS, 640, 480)

    def infer(
        self,
        image: bytes,
        model: str | None,
        confidence: float | None,
        classes: tuple[str, ...] | None,
        deadline_ns: int | None = None,
    ) -> Result:
        assert deadline_ns is None
        self.pictures.append((image, model, confidence, classes))
        if not image.startswith(JPEG[:3]):
            raise UsageError("the body is not an image")
        return replace(result("upload"), live=None)

    def infer_tensors(self, images: NDArray[np.uint8], model: str, deadline_ns: int | None = None) -> Mapping[str, NDArray[Any]]:
        raise NotImplementedError

    def card(self, model: str) -> ModelCard:
        raise NotImplementedError

    def lanes(self) -> list[LaneStatus]:
        return [
            LaneStatus(
                "main",
                "tiny",
                "null-cpu-none",
                (416, 416),
                (1, 4),
                2,
                1,
                3,
                {1: 10, 4: 5},
                30,
                10**9,
                0.25,
                {"p50": 4.0},
                2,
                1024,
            )
        ]

    def flight(self, name: str) -> Flight:
        self.stream(name)
        if self.flight_record is None:
            raise UnavailableError(
                f"{name}: the stream is not running (state: disabled)", "See the stream's state.", "disabled", ""
            )
        return self.flight_record

    def zones(self, name: str) -> Zones | None:
        self.stream(name)
        return self.counted

    def cost(self) -> Cost:
        if self.broken is not None:
            raise self.broken
        return cost_of([view.status for view in self.kept.values() if view.status is not None], self.lanes(), self.machine)

    def models(self) -> list[ModelView]:
        return [ModelView("tiny", "detect", (416, 416), LABELS, "Apache-2.0", True)]

    def events(self) -> list[ServiceEvent]:
        return self.published

    def sinks(self) -> list[SinkStatus]:
        return self.sink_statuses

    def stages(self) -> Mapping[str, Histogram]:
        return self.histograms


class FakeNodes:
    """The nodes of a cluster: plain values that a test sets."""

    def __init__(self, *nodes: NodeView) -> None:
        self.by_name = {node.name: node for node in nodes}

    def all(self) -> list[NodeView]:
        return list(self.by_name.values())

    def drain(self, node: str, draining: bool) -> bool:
        if node in self.by_name:
            self.by_name[node] = replace(self.by_name[node], state="draining" if draining else "alive")
        return node in self.by_name

    def epoch_of(self, stream: str) -> int | None:
        return 7 if stream in {name for node in self.by_name.values() for name in node.streams} else None


def node(name: str, *streams: str, **more: Any) -> NodeView:
    """Return a node of which all streams fit elsewhere."""
    one = NodeView(name, name, "alive", True, True, "", 1, {}, 1.7, 0.2, streams, len(streams), len(streams))
    return replace(one, **more)


class Api:
    """A client that calls the application without a network.

    Args:
        backend: The backend of the application.
        tokens: The valid tokens.
        host: The host name in requests.
        address: The address of the client.
        access: Returns access for teams with a clock.
    """

    def __init__(
        self,
        backend: FakeBackend | None = None,
        tokens: Tokens = OPEN,
        host: str = "127.0.0.1:8080",
        address: str = "127.0.0.1",
        app: FastAPI | None = None,
        access: Callable[[HandClock], Access] | None = None,
    ) -> None:
        self.backend = FakeBackend() if backend is None else backend
        self.clock = HandClock()
        self.access = None if access is None else access(self.clock)
        self.app = make_app(self.backend, tokens, self.clock, self.access) if app is None else app
        self.host = host
        self.address = address

    def ask(self, method: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        headers = httpx.Headers(more.pop("headers", None))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(self.address, 40_000))
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{self.host}") as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(send())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)


def problem(response: httpx.Response, status_code: int, kind: str) -> dict[str, Any]:
    """Check that a response is this problem, and return its document."""
    assert response.status_code == status_code, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status_code
    assert document["type"] == f"urn:problem-type:vision-infer:{kind}"
    assert document["title"]
    assert document["detail"]
    assert "Traceback" not in response.text
    return document
