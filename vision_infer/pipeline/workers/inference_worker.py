"""One thread for each batch in flight: take a batch, write its images into the engine's slots, run it."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from vision_infer.core.clock import Clock
from vision_infer.core.errors import EngineError
from vision_infer.core.frame import Frame
from vision_infer.engine.engine import Engine, Loan
from vision_infer.pipeline.channel import Channel
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.messages import Broken, Failed, Inferred, Message, Outdated
from vision_infer.schedule.batcher import Batch


class InferenceWorker:
    """Runs batches until the dispatch is closed and empty."""

    def __init__(
        self, number: int, lanes: Mapping[str, Lane], dispatch: Dispatch, results: Channel[Message], clock: Clock
    ) -> None:
        self._lanes = lanes
        self._dispatch = dispatch
        self._results = results
        self._clock = clock
        self.preprocess_ns = 0
        self.inference_ns = 0
        self.present_ns = 0
        self.thread = threading.Thread(target=self._run, name=f"inference-{number}", daemon=True)

    def _run(self) -> None:
        started = self._clock.monotonic_ns()
        try:
            while (work := self._dispatch.take()) is not None:
                for entry in work.outdated:
                    self._results.put(Outdated(entry.stream, entry.queued.sequence, entry.queued.item))
                if work.batch is not None and work.engine is not None:
                    self._results.put(self._infer(work.batch, work.engine))
                del work  # do not hold the images' memory while waiting for the next batch
        except Exception as error:  # noqa: BLE001 - the boundary of a thread: every error must be reported
            self._results.put(Broken(error))
        self.present_ns = self._clock.monotonic_ns() - started

    def _infer(self, batch: Batch[Frame], engine: Engine) -> Message:
        lane = self._lanes[batch.lane]
        try:
            loan = engine.lend(batch.size)
            unreadable = self._write(batch, lane, loan)
            raw = engine.collect(engine.submit(loan))
        except Exception as error:  # noqa: BLE001 - the boundary of a thread: every error must be reported
            failure = error
            if not isinstance(failure, EngineError):
                failure = EngineError(f"{engine.name}: unexpected {type(error).__name__}: {error}", "Please report this.")
                failure.__cause__ = error
            return Failed(batch, lane, failure, self._dispatch.done(batch, engine, 0, failure))
        engine_ns = raw.ended_ns - raw.started_ns
        self._dispatch.done(batch, engine, engine_ns)
        self.inference_ns += engine_ns
        for entry in batch.entries:
            trace = entry.queued.item.trace
            trace.inference_start_ns = raw.started_ns
            trace.inference_end_ns = raw.ended_ns
        return Inferred(batch, lane, engine, raw, unreadable)

    def _write(self, batch: Batch[Frame], lane: Lane, loan: Loan) -> dict[int, str]:
        now = self._clock.monotonic_ns
        unreadable: dict[int, str] = {}
        for slot, entry in enumerate(batch.entries):
            image, trace = entry.queued.item.image, entry.queued.item.trace
            trace.preprocess_start_ns = begin = now()
            try:
                image.write_into(loan.slots[slot], lane.letterbox(image.size))
            except Exception as error:  # noqa: BLE001 - an image of one stream must not cost the others their batch
                unreadable[slot] = f"{type(error).__name__}: {error}"
            trace.preprocess_end_ns = end = now()
            self.preprocess_ns += end - begin
        return unreadable
