"""Engines of a network's further input sizes: each is opened when the first picture comes that goes into it.

A clip or a camera uses one size. Until the engine is there its pictures wait in their lane as for a busy engine, those of other
lanes go on, and the threads that run batches are kept by nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from vision_infer.core.errors import EngineError, VisionInferError
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.selection.warm_start import WarmStart
from vision_infer.engine.store.cache import OnMessage
from vision_infer.stream.redact import redact

Open = Callable[[Path, EngineRequest, OnMessage], tuple[Engine, WarmStart | None]]
"""opens an engine, and says what is to become of it"""


class LateEngine:
    """Opens one lane's engine, once it is wanted, on a thread of its own.

    Args:
        path: the deployment graph.
        request: which engine is wanted.
        open_it: opens it, as :func:`vision_infer.pipeline.lanes.upgrade.open_quickly`.
        put_in: puts it into the lane, whose owner's it is to close then; what it raises closes it.
        give_up: told why the lane gets none.
        say: told what opening has to say.
    """

    def __init__(
        self,
        path: Path,
        request: EngineRequest,
        open_it: Open,
        put_in: Callable[[Engine, WarmStart | None], None],
        give_up: Callable[[VisionInferError], None],
        on_message: OnMessage,
    ) -> None:
        self._path, self._request = path, request
        self._open_it, self._put_in, self._give_up, self._say = open_it, put_in, give_up, on_message
        self._thread = threading.Thread(target=self._run, name="engine-opening", daemon=True)
        self._lock = threading.Lock()
        self._wanted = False

    def want(self) -> None:
        """A picture is to go into it; returns at once."""
        if self._wanted:
            return
        with self._lock:
            if not self._wanted:
                self._wanted = True
                self._thread.start()

    def join(self) -> None:
        """Let it be opened no more, and wait for what has begun."""
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
            self._give_up(EngineError(f"{self._path.name}: there is not enough memory for it", "use a smaller network or batch"))
        except Exception as error:  # noqa: BLE001 - a thread is a boundary: pictures wait for what it says
            told = redact(f"{self._path.name}: unexpected {type(error).__name__}: {error}")
            self._give_up(EngineError(told, "please report this"))

    def _open(self) -> None:
        engine, quick = self._open_it(self._path, self._request, self._say)
        try:
            engine.warm_up()
            self._put_in(engine, quick)
        except BaseException:
            engine.__exit__(None, None, None)
            raise
