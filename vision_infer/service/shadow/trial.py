"""The trial of a candidate: it gets frames in spare capacity, and its detections are compared with those of the current model."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Literal

import numpy as np

from vision_infer.analyze.region import Filter
from vision_infer.analyze.select import Selector, minimum_scores
from vision_infer.compare.detections import renumbered
from vision_infer.config.serve import StreamSettings
from vision_infer.config.service.shadow import ShadowSettings
from vision_infer.core.card import ModelCard
from vision_infer.core.clock import Clock
from vision_infer.core.detections import Detections
from vision_infer.core.errors import EngineError, VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size, best_input, letterbox
from vision_infer.core.result import Result
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.open import EngineRequest
from vision_infer.pipeline.completion import PendingResult
from vision_infer.pipeline.lanes.lane import class_groups, make_selector, scores_by_class
from vision_infer.pipeline.steps import Steps
from vision_infer.service.results.requests import PREFIX
from vision_infer.service.shadow.agreement import EngineTimes, ModelAgreement, Sums, sums_of
from vision_infer.service.shadow.candidate import Candidate, CandidateFrame, FrameFailedError, LoadedCandidate
from vision_infer.stream.redact import redact
from vision_infer.telemetry.rolling import RollingRate

MAX_FAILURES = 5
"""The number of failed frames in a row after which the trial ends."""
LOOK_S = 1.0
"""The interval at which the spare capacity is checked, seconds."""
OnDifference = Callable[[Frame, Result, tuple[float, float]], None]
TrialState = Literal["loading", "comparing", "waiting", "failed"]

_log = logging.getLogger("vision_infer.service")


@dataclass(frozen=True, slots=True)
class ShadowStatus:
    """The status of a trial."""

    settings: ShadowSettings
    current: str
    """The model that the candidate is compared with, and its engine if that was promoted."""
    state: TrialState
    reason: str
    engine: str
    """The candidate's engine; empty until it is loaded."""
    skipped: Mapping[str, int]
    """The number of frames that the candidate did not get or infer, by reason."""
    recent: Sums
    total: Sums


def selector_for(card: ModelCard, settings: StreamSettings) -> Selector:
    """Return the selector of a stream for a model; classes that the model does not know are left out."""
    known = {label.casefold() for label in card.labels or ()}

    def is_known(label: str) -> bool:
        return label.strip().casefold() in known if card.labels else label.strip().isdecimal()

    classes = None if settings.classes is None else tuple(filter(is_known, settings.classes))
    scores = scores_by_class(card, {label: score for label, score in settings.per_class.items() if is_known(label)})
    return make_selector(card, settings.confidence, settings.iou, classes, scores, class_groups(card, settings.compared))


def selected(detections: Detections, selector: Selector) -> Detections:
    """Return the detections that a selector reports, of those that another one with lower limits has selected."""
    keep = detections.scores >= minimum_scores(detections.class_ids, selector.per_class, selector.confidence)
    if selector.classes is not None:
        keep &= np.isin(detections.class_ids, list(selector.classes))
    return detections[keep]


class Trial:
    """Compares a candidate with the current model until :meth:`end`.

    Args:
        settings: The candidate, and which frames it gets.
        current: The name of the current model's lanes.
        graphs: The deployment graphs of the candidate by input size, its own size first.
        request: Which engine to open.
        streams: Returns the settings of the running streams by name.
        shortage: Returns why there is no spare capacity, or an empty text. Receives the CPU cores that the candidate uses.
        clock: The source of time.
        on_difference: Called with each compared frame, its result, and the size of the difference. None: nothing.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        current: str,
        graphs: Mapping[Size, Path],
        request: EngineRequest,
        streams: Callable[[], Mapping[str, StreamSettings]],
        shortage: Callable[[float], str],
        clock: Clock,
        on_difference: OnDifference | None = None,
    ) -> None:
        self.settings = settings
        self._on_difference = on_difference
        self.current = current
        self.agreement = ModelAgreement()
        self.skipped: Counter[str] = Counter()
        """The number of frames that the candidate did not infer: ``loading``, ``no_capacity``, ``busy`` or ``failed``."""
        self._chosen = frozenset(settings.streams)
        self._graphs = graphs
        self._request = request
        self._streams = streams
        self._shortage = shortage
        self._clock = clock
        self._state: tuple[TrialState, str] = ("loading", "")
        self._loaded: LoadedCandidate | None = None
        self._seen: dict[str, int] = {}
        """The number of inferred frames of each stream, written by the results thread."""
        # The results thread puts a frame, the trial's thread takes it: at most one waits, and one is compared.
        self._waiting: Queue[PendingResult] = Queue(1)
        # Guards the process against end() while the trial's thread starts it. Held for the start of a process.
        self._starting = threading.Lock()
        self._candidate: Candidate | None = None
        self._ended = False
        self._filters: dict[str, tuple[StreamSettings, Filter]] = {}
        self._cpu = RollingRate(1)
        self._cpu_ns = 0
        self._looked_ns = 0
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Load the candidate and begin."""
        self._thread.start()

    def end(self) -> None:
        """End the trial and its process."""
        with self._starting:
            self._ended = True
            if self._candidate is not None:
                self._candidate.kill()
        if self._thread.is_alive():
            self._thread.join()

    def status(self) -> ShadowStatus:
        """Return the status."""
        state, reason = self._state
        engine = "" if self._loaded is None else self._loaded.engine
        recent, total = self.agreement.recent, self.agreement.total
        return ShadowStatus(self.settings, self.current, state, reason, engine, dict(self.skipped), recent, total)

    def observe(self, pending: PendingResult, steps: Steps) -> None:
        """Offer a frame of the current model; called on the results thread. It never waits."""
        stream = pending.frame.stream
        if steps.lane != self.current or stream.startswith(PREFIX):
            return
        if self._chosen and stream not in self._chosen:
            return
        seen = self._seen[stream] = self._seen.get(stream, 0) + 1
        state = self._state[0]
        if seen % self.settings.every or state == "failed":
            return
        if state != "comparing":
            self.skipped["loading" if state == "loading" else "no_capacity"] += 1
            return
        try:
            self._waiting.put_nowait(replace(pending))  # tracking replaces the detections of the original
        except Full:
            self.skipped["busy"] += 1

    def _run(self) -> None:
        if sys.platform == "linux":  # the priority of this thread; elsewhere it would be that of the process
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            self._compare_all()
        except VisionInferError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - an error of the trial must not end the service
            self._fail(f"unexpected {type(error).__name__}: {error}")
        finally:
            if self._candidate is not None:
                self._candidate.close()

    def _fail(self, reason: str) -> None:
        if self._ended:
            return
        self._state = ("failed", redact(reason))
        _log.warning("shadow model %s: %s; the cameras are not affected", self.settings.model, self._state[1])

    def _compare_all(self) -> None:
        with self._starting:
            if self._ended:
                return
            self._candidate = Candidate(next(iter(self._graphs.values())), self._request)
        loaded = self._loaded = self._candidate.loaded()
        _log.info("shadow model %s: loaded %s", self.settings.model, loaded.engine)
        while not self._ended:
            self._look()
            try:
                pending = self._waiting.get(timeout=LOOK_S)
            except Empty:
                continue
            try:
                self._compare(pending, self._candidate, loaded)
                self._failures = 0
            except FrameFailedError as error:
                self.skipped["failed"] += 1
                self._failures += 1
                if self._failures >= MAX_FAILURES:
                    raise EngineError(f"{MAX_FAILURES} frames in a row failed: {error.message}") from None
            del pending  # do not hold the image's memory while waiting for the next frame

    def _look(self) -> None:
        """Check the spare capacity, at most once in :data:`LOOK_S`."""
        now = self._clock.monotonic_ns()
        if now - self._looked_ns < LOOK_S * 1e9:
            return
        self._looked_ns = now
        self._cpu.sample(now, self._cpu_ns)
        reason = self._shortage(self._cpu.per_second[0] / 1e9)
        self._state = ("waiting", reason) if reason else ("comparing", "")
        streams = self._streams()
        for known in (self._seen, self._filters):
            for name in [name for name in list(known) if name not in streams]:
                known.pop(name, None)

    def _compare(self, pending: PendingResult, candidate: Candidate, loaded: LoadedCandidate) -> None:
        frame, engine = pending.frame, pending.engine
        settings = self._streams().get(frame.stream)
        if settings is None or engine is None:
            return
        image, card = frame.image, loaded.card
        size = best_input(image.size, tuple(self._graphs))
        box = letterbox(image.size, size, card.fit, card.fill)
        slot = HostSlot(np.empty((size.height, size.width, 3), np.uint8))
        image.write_into(slot, box)
        answer = candidate.infer(CandidateFrame(self._graphs[size], slot.pixels, box, selector_for(card, settings)))
        self._cpu_ns = answer.cpu_ns
        keep = self._filter(frame.stream, settings)
        current = keep(selected(pending.detections, selector_for(engine.card, settings)), image.size)
        found = keep(renumbered(answer.detections, card.labels or (), engine.card.labels or ()), image.size)
        latency_ns = frame.trace.inference_end_ns - frame.trace.inference_start_ns
        times = EngineTimes(latency_ns, latency_ns / max(1, frame.trace.batch))
        bare = replace(current, details=None, track_ids=None)
        sums, difference = sums_of(bare, found, times, EngineTimes(answer.engine_ns, answer.engine_ns))
        self.agreement.add(sums)
        if self._on_difference is not None:
            names, latency = (engine.card.name, engine.name), frame.trace.latency()
            result = Result(frame.stream, frame.index, frame.pts_s, image.size, *names, current, latency)
            self._on_difference(frame, result, difference)

    def _filter(self, stream: str, settings: StreamSettings) -> Filter:
        known = self._filters.get(stream)
        if known is None or known[0] is not settings:
            known = self._filters[stream] = (settings, Filter(settings.min_size, settings.region))
        return known[1]
