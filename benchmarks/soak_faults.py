"""The faults of the soak test: cameras, the network to them, changes of settings, and clients that do not read."""

from __future__ import annotations

import random
import socket
import tempfile
import urllib.error
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from benchmarks.live_service import LiveService
from tests.support.cameras import ClockMount, Encoded, ReplayMount, RtspServer
from tests.support.fault_proxy import FaultProxy

STREET = Encoded("bikes", 640, 360, 15, kbit_s=800, frames=60, key_interval=15)
BEACH = Encoded("bikes", 320, 180, 10, "h265", 300, frames=40, key_interval=10)
BROKEN_SETTINGS = "streams: {door: {detect: 'rtsp://127.0.0.1/x', no_such_field: 1}}\n"
API_STREAMS = 3
"""The maximum number of streams that were created over the API and not deleted yet."""
SILENT_READERS = 3
_UNREAD_BYTES = 4096
"""The receive buffer of a client, small so that the service soon detects that the client does not read."""


class Rig:
    """Runs the cameras, the network to some of them, and the service until the context ends.

    Args:
        seed: The seed of all random choices.
        ingest: What reads the RTSP cameras: ``auto``, ``rtp`` or ``ffmpeg``.
    """

    def __init__(self, seed: int, ingest: str = "auto") -> None:
        self.random = random.Random(seed)
        self._ingest = ingest
        self.unexpected: list[str] = []
        """The unexpected responses of the API."""
        self._api: list[str] = []
        self._made = 0
        self._readers: list[socket.socket] = []

    def __enter__(self) -> Rig:
        with ExitStack() as stack:
            self._rows = stack.enter_context(tempfile.TemporaryDirectory())
            self.first = RtspServer(ClockMount("/clock", 640, 360, 15), ReplayMount("/street", STREET))
            self.second = RtspServer(ReplayMount("/street", STREET), ReplayMount("/beach", BEACH))
            for server in (self.first, self.second):
                server.port = _fixed_port()
                stack.enter_context(server)
            self.network = stack.enter_context(FaultProxy(self.first.port, seed=self.random.randrange(1 << 30)))
            self.service = stack.enter_context(LiveService(self.settings()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close_readers()
        self._stack.close()

    def settings(self, changed: bool = False) -> dict[str, Any]:
        """Return the content of the configuration file; ``changed`` adds, changes and removes one stream."""
        streams: dict[str, Any] = {
            "door": {"detect": self.network.url("/clock"), "track": True},
            "yard": {"detect": self.network.url("/street")},
            "street": {"detect": self.second.url("/street")},
            "beach": {"detect": self.second.url("/beach"), "fps": 5},
            "pattern": {"detect": "test://?size=320x180&fps=10"},
        }
        if changed:
            del streams["pattern"]
            streams["street"] |= {"fps": 5, "weight": 2}
            streams["garden"] = {"detect": self.second.url("/beach"), "keyframes_only": True}
        return {
            "model": "clock",
            "service": {"log_format": "json", "requests_per_second": 1000},
            "results": {"jsonl": f"{self._rows}/{{stream}}.jsonl", "rotate_mb": 1, "keep": 2},
            "defaults": {
                "ingest": self._ingest,
                "stall_timeout_s": 2,
                "open_timeout_s": 5,
                "reconnect": {"max_s": 4, "refused_s": 4},
            },
            "streams": streams,
        }

    def begin(self, fault: str) -> None:
        """Start one of :data:`FAULTS`."""
        network = self.network
        match fault:
            case "server killed":
                self.random.choice((self.first, self.second)).kill()
            case "both servers killed":
                self.first.kill()
                self.second.kill()
            case "server frozen":
                self.second.freeze()
            case "network frozen":
                network.freeze()
            case "slow drip":
                network.drip(2000)
            case "garbage":
                network.garbage()
            case "flipped bits":
                network.flip_bits(0.02)
            case "times jump":
                network.shift_times(self.random.uniform(-10, 10))
            case "stall and burst":
                network.stall(self.random.uniform(0.5, 3))
            case "connections dropped":
                network.drop()
            case "connections refused":
                network.refuse()
                network.drop()
            case "settings changed":
                self.service.configure(self.settings(changed=True))
            case "settings broken":
                self.service.configure(BROKEN_SETTINGS)

    def heal(self, fault: str) -> None:
        """End a fault."""
        match fault:
            case "server killed" | "both servers killed":
                for server in (self.first, self.second):
                    server.restart()
            case "server frozen":
                self.second.thaw()
            case "settings changed" | "settings broken":
                self.service.configure(self.settings())
            case _:
                self.network.heal()

    def send_request(self) -> None:
        """Act as a client in a random way; record unexpected responses."""
        name = self.random.choice(("door", "yard", "street", "beach", *self._api))
        actions = ("add", "add", "change", "remove", "remove", "snapshot", "query", "silent reader", "close readers")
        action = self.random.choice(actions)
        try:
            if action == "add" and len(self._api) < API_STREAMS:
                self._add()
            elif action == "change" and self._api:
                body = {"detect": "test://?size=320x180&fps=5", "fps": self.random.randint(1, 5), "best_effort": True}
                self.service.ask(f"/api/v1/streams/{self.random.choice(self._api)}", "PUT", body)
            elif action == "remove" and self._api:
                removed = self._api.pop(self.random.randrange(len(self._api)))
                self.service.ask(f"/api/v1/streams/{removed}", "DELETE")
            elif action == "snapshot":
                self.service.ask(f"/api/v1/streams/{name}/snapshot.jpg?annotated=true&timeout_s=2")
            elif action == "query":
                for path in ("/metrics", "/api/v1/streams", "/api/v1/engines", "/api/v1/events", "/readyz"):
                    self.service.ask(path)
            elif action == "silent reader" and len(self._readers) < SILENT_READERS:
                self._readers.append(_silent_reader(self.service.url))
            elif action == "close readers":
                self.close_readers()
        except urllib.error.HTTPError as error:
            if not (action == "snapshot" and error.code == 503):  # a disconnected stream has no frame
                self.unexpected.append(f"{action} {name}: {error.code} {error.read()[:200]!r}")

    def close_readers(self) -> None:
        """Close the clients that never read."""
        while self._readers:
            self._readers.pop().close()

    def remove_all(self) -> None:
        """Delete the streams that were created over the API."""
        while self._api:
            self.service.ask(f"/api/v1/streams/{self._api.pop()}", "DELETE")

    def _add(self) -> None:
        self._made += 1
        urls = (self.second.url("/street"), self.network.url("/street"), self.second.url("/no-such-camera"), "test://?fps=5")
        name = f"made-{self._made}"
        # A stream of the API inherits no defaults, and a busy machine has no capacity left.
        body = {"detect": self.random.choice(urls), "fps": 5, "best_effort": True, "ingest": self._ingest}
        self.service.ask(f"/api/v1/streams/{name}", "PUT", body)
        self._api.append(name)


FAULTS = (
    "server killed",
    "both servers killed",
    "server frozen",
    "network frozen",
    "slow drip",
    "garbage",
    "flipped bits",
    "times jump",
    "stall and burst",
    "connections dropped",
    "connections refused",
    "settings changed",
    "settings broken",
)


def _fixed_port() -> int:
    """Return a free port below the ephemeral range, so that the system does not assign it while its server is down."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _silent_reader(url: str) -> socket.socket:
    """Connect a WebSocket client that never reads, not even the handshake."""
    parts = urlsplit(url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD_BYTES)
    client.settimeout(10)
    client.connect((parts.hostname, parts.port))
    lines = ("GET /api/v1/results HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade")
    key = ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
    client.sendall("\r\n".join((*lines, *key, "", "")).encode())
    return client
