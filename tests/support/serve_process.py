"""``vision-infer serve`` as a separate process, as users run it."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.free_port import free_port
from tests.support.media import ROOT

LIMIT_S = 60.0
"""The time limit for any step on a busy machine, in seconds."""
_LOOK_S = 0.03


class ServeProcess:
    """Runs a configuration on a free port until the context ends.

    Args:
        folder: The home folder, which also contains the log.
        configuration: The text of the configuration file.
        under: A command that runs the service, such as ``("prlimit", "--nofile=256")``.
        arguments: The options of ``serve``.
        secrets: Additional environment variables.
    """

    becomes_ready = True
    """Whether the start waits until the service is ready."""

    def __init__(
        self,
        folder: Path,
        configuration: str,
        under: Sequence[str] = (),
        arguments: Sequence[str] = ("--port", "0"),
        **secrets: str,
    ) -> None:
        self.folder = folder
        self._under = under
        self._arguments = arguments
        self.file = folder / "cameras.yaml"
        if "engine:" not in configuration:  # a named engine avoids autotuning, which would take the cores from the tests
            configuration += "\nengine: onnxruntime-cpu-fp32\n"
        self.file.write_text(configuration, encoding="utf-8")
        self.log_file = folder / "serve.log"
        self.answers: list[str] = []
        """All responses so far."""
        self.token = ""
        """The token that :meth:`ask` sends."""
        self.preview_port = free_port()
        own = {"VISION_INFER_HOME": str(folder / "home"), "VISION_INFER_PREVIEW__PORT": str(self.preview_port)}
        self._environ = {**os.environ, **own, **secrets}
        self._process: subprocess.Popen[bytes] | None = None
        self.scheme, self.port = "http", 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()  # __exit__ is not called
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """The log of this process and the previous ones."""
        return self.log_file.read_text(encoding="utf-8")

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process; return when it is ready."""
        before = self.log_file.stat().st_size if self.log_file.exists() else 0
        command = [*self._under, sys.executable, "-m", "vision_infer", "serve", str(self.file), *self._arguments]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env=self._environ
            )
        found: list[re.Match[str]] = []

        def serves() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log
            found.extend(re.finditer(r"serves on (https?)://127\.0\.0\.1:(\d+)", self.log[before:]))
            return bool(found)

        self.wait(serves, "the service to listen", 2 * LIMIT_S)  # Ray Client alone can take a minute
        self.scheme, self.port = found[-1][1], int(found[-1][2])
        if self.becomes_ready:
            self.wait(lambda: self.ask("GET", "/readyz")[0] == 200, "the service to be ready")

    def kill(self) -> None:
        """Kill the process (SIGKILL) if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> tuple[int, float]:
        """Stop the process (SIGTERM); return its exit status and the duration in seconds."""
        process, self._process = self._process, None
        assert process is not None
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(LIMIT_S), time.monotonic() - began
        finally:
            process.kill()
            process.wait()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Send a request; return the status and text of the response."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.scheme}://127.0.0.1:{self.port}{path}", data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        # The certificates of tests are self-signed.
        context = ssl._create_unverified_context() if self.scheme == "https" else None
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S, context=context) as answer:
                status, text = answer.status, answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode("utf-8", "replace")
        self.answers.append(text)
        return status, text

    def streams(self) -> dict[str, Any]:
        """Return all streams of the API by name."""
        status, text = self.ask("GET", "/api/v1/streams")
        assert status == 200
        return {stream["name"]: stream for stream in json.loads(text)}

    def wait(self, condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
        """Wait until a condition is met; fail the test after the time limit."""
        deadline, looked = time.monotonic() + limit_s, threading.Event()
        while not condition():
            assert time.monotonic() < deadline, f"not within {limit_s} s: {what}; {self.log[-1500:]}"
            looked.wait(_LOOK_S)


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that may still be written to, without an incomplete last row."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]
