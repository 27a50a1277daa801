"""Read a stream's main URL (``view``) while it has viewers: packets, and decoded frames if they must be encoded."""

from __future__ import annotations

import logging
import threading

from vision_infer.core.clock import Clock
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.preview.relay import Relay
from vision_infer.stream.backoff import Backoff, after_refusals
from vision_infer.stream.find import open_source
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.redact import redact
from vision_infer.stream.source import SourceSpec

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 10.0
_REFUSED_WAIT_S = 30.0
_GOOD_NS = 5_000_000_000
"""A connection of this length resets the back-off."""

_log = logging.getLogger("vision_infer.preview")


class ViewReader:
    """Keeps a connection to the URL until it is stopped, on a thread that it starts."""

    def __init__(self, spec: SourceSpec, relay: Relay, clock: Clock) -> None:
        self.spec = spec
        self.relay = relay
        self.problem = ""
        """The reason why there is no connection; empty while connected."""
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"view-{spec.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading after the current operation. Nothing more is sent to the relay."""
        self._stopping.set()

    def _run(self) -> None:
        waits, refusals = Backoff(_FIRST_WAIT_S, _LONGEST_WAIT_S), after_refusals(_REFUSED_WAIT_S, _REFUSED_WAIT_S)
        while not self._stopping.is_set():
            began = self._clock.monotonic_ns()
            wait_s = None
            try:
                self._connect()
                self.problem = "the server ended the stream"
            except RefusedError as error:
                self.problem = redact(str(error))
                wait_s = refusals.next_s()
            except StreamError as error:
                self.problem = redact(str(error))
            except Exception as error:  # noqa: BLE001 - thread boundary: the error must be reported
                self.problem = f"unexpected {type(error).__name__}: {redact(str(error))}"
            if self._stopping.is_set():
                return
            _log.info("%s: main stream: %s", self.spec.name, self.problem)
            if self._clock.monotonic_ns() - began > _GOOD_NS:
                waits.reset()
            self._stopping.wait(waits.next_s() if wait_s is None else wait_s)

    def _connect(self) -> None:
        with open_source(self.spec, 1, self._stopping) as source:
            if isinstance(source, LiveSource):
                source.decoding = self.relay.frames_wanted
            source.show(self.relay)  # type: ignore[attr-defined]
            self.problem = ""
            for _ in source.frames():
                if self._stopping.is_set():
                    return
