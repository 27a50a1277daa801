"""One thread for each batch in flight: take a batch, write its images into the engine's slots, run it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from vision_infer.core.clock import Clock
from vision_infer.core.errors import EngineError
from vision_infer.core.frame import Frame
from vision_infer.core.image import Image
from vision_infer.engine.engine import Engine, Loan, RawResults
from vision_infer.pipeline.channel import Channel
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.messages import Broken, Failed, Inferred, Message, Outdated
from vision_infer.schedule.batcher import Batch
from vision_infer.stream.crop import cut

FrameImage: TypeAlias = tuple[int, Frame, Image]
"""The number of a frame in its batch, the frame, and the image that is inferred: its own, or that of a tile."""


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
        unreadable: dict[int, str] = {}
        try:
            images, tiled = [], False
            for number, entry in enumerate(batch.entries):
                frame = entry.queued.item
                images.append((number, frame, frame.image))
                if frame.tiles:
                    tiled = True
            if tiled:
                raw = self._run_tiles(images, batch.size, lane, engine, unreadable)
            else:
                raw = self._run_batch(images, batch.size, lane, engine, unreadable)
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
        return Inferred(batch, lane, engine, raw, unreadable, tiled)

    def _run_batch(
        self, images: Sequence[FrameImage], size: int, lane: Lane, engine: Engine, unreadable: dict[int, str]
    ) -> RawResults:
        """Write images into the slots of one batch, and run it."""
        loan = engine.lend(size)
        self._write(images, lane, loan, unreadable)
        return engine.collect(engine.submit(loan))

    def _run_tiles(
        self, whole: Sequence[FrameImage], last: int, lane: Lane, engine: Engine, unreadable: dict[int, str]
    ) -> RawResults:
        """Run frames of which some have tiles; several batches, the last of size ``last``, if the largest one is too small."""
        images: list[FrameImage] = []
        for number, frame, own in whole:
            frame.trace.preprocess_start_ns = frame.trace.preprocess_end_ns = self._clock.monotonic_ns()
            parts = cut(own, frame.tiles) if frame.tiles else (own,)
            images += [(number, frame, image) for image in parts]
        largest = engine.batch_sizes[-1]
        starts = range(0, len(images), largest)
        raws = []
        for start in starts:
            size = last if start == starts[-1] else largest
            raws.append(self._run_batch(images[start : start + largest], size, lane, engine, unreadable))
        if len(raws) == 1:
            return raws[0]
        counts = [min(largest, len(images) - start) for start in starts]
        outputs = {
            name: np.concatenate([raw.outputs[name][:count] for raw, count in zip(raws, counts, strict=True)])
            for name in raws[0].outputs
        }
        ended = raws[-1].ended_ns  # the time between the batches is not engine time
        return RawResults(outputs, ended - sum(raw.ended_ns - raw.started_ns for raw in raws), ended)

    def _write(self, images: Sequence[FrameImage], lane: Lane, loan: Loan, unreadable: dict[int, str]) -> None:
        now = self._clock.monotonic_ns
        for slot, (number, frame, image) in enumerate(images):
            trace = frame.trace
            begin = now()
            try:
                image.write_into(loan.slots[slot], lane.letterbox(image.size))
            except Exception as error:  # noqa: BLE001 - an image of one stream must not cost the others their batch
                unreadable[number] = f"{type(error).__name__}: {error}"
            spent = now() - begin
            if frame.tiles:  # its tiles may be written at different times: their times are added up
                trace.preprocess_end_ns += spent
            else:
                trace.preprocess_start_ns, trace.preprocess_end_ns = begin, begin + spent
            self.preprocess_ns += spent
