"""Engines for the other input sizes of a model: each is opened when the first image for it arrives.

A clip or a camera uses one size. Until the engine is open, its images wait in their lane as for a busy engine. Other lanes
continue, and no inference thread waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from vision_infer.core.errors import EngineError, VisionInferError
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.store.cache import OnMessage
from vision_infer.pipeline.lanes.replicas import OpenedReplica, OpenEngine, open_replicas
from vision_infer.stream.redact import redact


class LateEngine:
    """Opens the engine of one lane when it is needed, on its own thread.

    Args:
        path: The deployment graph.
        request: Which engine to open.
        open_it: Opens it on one device, as :func:`vision_infer.pipeline.lanes.opening.open_quickly`.
        put_in: Puts it into the lane, whose owner closes it; one engine for each device. If this raises an error, the engines are
            closed here.
        give_up: Receives the reason why the lane gets no engine.
        on_message: Receives lines of text about opening.
    """

    def __init__(
        self,
        path: Path,
        request: EngineRequest,
        open_it: OpenEngine,
        put_in: Callable[[Sequence[OpenedReplica]], None],
        give_up: Callable[[VisionInferError], None],
        on_message: OnMessage,
    ) -> None:
        self._path, self._request = path, request
        self._open_it, self._put_in, self._give_up, self._on_message = open_it, put_in, give_up, on_message
        self._thread = threading.Thread(target=self._run, name="engine-opening", daemon=True)
        # Guards `_wanted`. The stream threads hold it in want(), the owner in join().
        self._lock = threading.Lock()
        self._wanted = False

    def want(self) -> None:
        """Start to open the engine, because an image for it has arrived; return at once."""
        if self._wanted:
            return
        with self._lock:
            if not self._wanted:
                self._wanted = True
                self._thread.start()

    def join(self) -> None:
        """Prevent the engine from being opened; wait if opening has started."""
        with self._lock:
            begun, self._wanted = self._wanted, True
        if begun:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._open()
        except VisionInferError as error:
            self._give_up(error)
        except MemoryError:
            self._give_up(EngineError(f"{self._path.name}: not enough memory", "Use a smaller model or batch."))
        except Exception as error:  # noqa: BLE001 - the boundary of a thread: images wait for the outcome
            message = redact(f"{self._path.name}: unexpected {type(error).__name__}: {error}")
            self._give_up(EngineError(message, "Please report this."))

    def _open(self) -> None:
        opened = open_replicas(self._path, self._request, self._open_it, self._on_message)
        with ExitStack() as engines:
            for replica in opened:
                engines.push(replica.engine)
                replica.engine.warm_up()
            self._put_in(opened)
            engines.pop_all()
