"""``vision-infer serve`` as a separate process, with requests to it and measurements of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.inputs import COMMAND, FP32
from benchmarks.processes import cpu_s
from tests.support.free_port import free_port

START_S = 60.0
STOP_S = 20.0
_URL = re.compile(r"serves on (http://\S+)")


class ServiceFailedError(RuntimeError):
    """The service did not reach the state that a measurement requires."""


class LiveService:
    """Runs the service on a free port of the loopback interface until the context ends.

    Args:
        settings: The content of the configuration file; :meth:`configure` changes it while the service runs.
        options: Additional options of ``serve``.
        environ: Additional environment variables.
    """

    def __init__(
        self, settings: Mapping[str, object], options: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> None:
        self._options = options
        self._environ = environ or {}
        self._folder = tempfile.TemporaryDirectory(prefix="vision-infer-bench-")
        self.folder = Path(self._folder.name)
        """The folder of its settings, its log and its data."""
        self.log = self.folder / "service.log"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(settings)

    def __enter__(self) -> LiveService:
        own = {"VISION_INFER_HOME": str(self.folder / "home"), "VISION_INFER_PREVIEW__PORT": str(free_port())}
        environment = {**os.environ, **own, **self._environ}
        command = [str(COMMAND), "serve", str(self.folder / "settings.yaml"), "--port", "0", *self._options]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            self.wait(lambda: self._find_url() and self._ready(), START_S, "the service did not become ready")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def results_url(self) -> str:
        """The URL of the WebSocket of results."""
        return f"ws{self.url.removeprefix('http')}/api/v1/results"

    def configure(self, settings: Mapping[str, object] | str) -> None:
        """Replace the configuration file atomically; a running service reads it again."""
        # The engine is named, because autotuning, which starts after ten seconds, would be measured as well.
        text = settings if isinstance(settings, str) else json.dumps({"engine": FP32[1], **settings}, indent=1)
        partial = self.folder / "settings.part"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.folder / "settings.yaml")

    def cpu_s(self) -> float:
        """Return the CPU time so far, seconds."""
        return cpu_s(self.pid)

    def ask(self, path: str, method: str = "GET", body: object = None, timeout_s: float = 30.0) -> Any:
        """Send a request to the API; return decoded JSON, the bytes of another type, or None for an empty response.

        Raises:
            urllib.error.HTTPError: If the response has an error status.
            OSError: If there is no response.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            content = answer.read()
            kind = answer.headers.get_content_type()
        if not content:
            return None
        return json.loads(content) if kind == "application/json" else content

    def states(self) -> dict[str, str]:
        """Return the state of each enabled stream."""
        return {row["name"]: row["status"]["state"] for row in self.ask("/api/v1/streams") if row["status"] is not None}

    def wait_live(self, count: int, timeout_s: float = START_S) -> None:
        """Wait until this number of streams is live.

        Raises:
            ServiceFailedError: If the time limit is reached first.
        """

        def enough() -> bool:
            return sum(state == "live" for state in self.states().values()) >= count

        self.wait(enough, timeout_s, f"not all of {count} streams became live")

    def wait(self, condition: Callable[[], object], timeout_s: float, otherwise: str) -> None:
        """Wait until a condition is met.

        Raises:
            ServiceFailedError: If the time limit is reached or the service ends first.
        """
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise ServiceFailedError(f"{otherwise} (exit status {self._process.poll()}):\n{tail}")
            time.sleep(0.05)

    def stop(self) -> int:
        """Send SIGTERM, and SIGKILL if the process does not end; return the exit status."""
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _find_url(self) -> bool:
        found = _URL.search(self.log.read_text(encoding="utf-8", errors="replace"))
        if found:
            self.url = found[1].rstrip("/")
        return found is not None

    def _ready(self) -> bool:
        try:
            return bool(self.ask("/readyz")["ready"])
        except (urllib.error.HTTPError, OSError):
            return False
