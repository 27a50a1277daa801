"""Watches live streams from another thread: a worker that is blocked in its camera cannot report it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from vision_infer.core.clock import Clock
from vision_infer.core.drop import DropReason
from vision_infer.pipeline.status import StreamState
from vision_infer.pipeline.workers.live_worker import LiveWorker

INTERVAL_S = 0.25
MIN_STALL_NS = 1_000_000_000
STALL_INTERVALS = 5
"""A stream is stalled when no frame has arrived for this number of its usual intervals, and for at least a second."""
_SAMPLE_NS = 1_000_000_000

_log = logging.getLogger("vision_infer.pipeline")


class LiveWatch:
    """Detects stalled streams, and samples the rates of all live streams.

    Args:
        workers: Returns the live workers.
        stalled: Called for each stream that has stalled, with the reason.
        sample: Called about once a second, with the monotonic time.
        engine_ns: Returns the engine time that a stream has used.
        clock: The monotonic clock.
    """

    def __init__(
        self,
        workers: Callable[[], Sequence[LiveWorker]],
        stalled: Callable[[LiveWorker, str], None],
        sample: Callable[[int], None],
        engine_ns: Callable[[str], int],
        clock: Clock,
    ) -> None:
        self._workers = workers
        self._stalled = stalled
        self._sample = sample
        self._engine_ns = engine_ns
        self._clock = clock
        self._sampled_ns = 0
        self._ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="live-watch", daemon=True)

    def look(self) -> None:
        """Check all streams once."""
        now = self._clock.monotonic_ns()
        sample = now - self._sampled_ns >= _SAMPLE_NS
        if sample:
            self._sampled_ns = now
            self._sample(now)
        for worker in self._workers():
            live, record = worker.live, worker.record
            if sample:
                engine_ns = self._engine_ns(record.name)
                live.rate.sample(now, record.decoded, record.results, live.thread_ns, live.convert_ns, engine_ns)
            last = live.last_frame_ns
            if record.state is not StreamState.LIVE or last is None or worker.stopping.is_set():
                continue
            silent_ns = now - last
            if silent_ns > max(MIN_STALL_NS, STALL_INTERVALS * live.interval_ns):
                self._stalled(worker, f"no frame for {silent_ns / 1e9:.1f} s{_left_out(live.left_out.copy())}")

    def end(self) -> None:
        """End the thread."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - the boundary of a thread: every error must be reported
                _log.exception("watching live streams failed; trying again")


def _left_out(counts: Mapping[DropReason, int]) -> str:
    """Return the frames that the source has not delivered meanwhile, as text."""
    if not counts:
        return ""
    reason = max(counts, key=lambda reason: counts[reason])
    return f"; {sum(counts.values())} frames arrived and were dropped, most of them {reason.value}"
