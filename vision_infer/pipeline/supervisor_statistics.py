"""The statistics of a supervisor: statuses, events, accounts. Plain values, which any thread may read at any time."""

from __future__ import annotations

from vision_infer.analyze.zones import Zones
from vision_infer.core.errors import VisionInferError
from vision_infer.pipeline.status import Flight, LaneStatus, StreamStatus
from vision_infer.pipeline.stream_record import StreamRecord, live_status_of, status_of
from vision_infer.pipeline.supervisor_lifecycle import SupervisorLifecycle
from vision_infer.telemetry.account import Busy, StageAccount, Work


class SupervisorStatistics(SupervisorLifecycle):
    """What a supervisor reports."""

    def statuses(self) -> list[StreamStatus]:
        """Return the status of every stream."""
        return [self._status(record) for record in self._streams.records()]

    def status(self, name: str) -> StreamStatus | None:
        """Return the status of a stream; None when there is no such stream."""
        record = self._streams.by_name.get(name)
        return None if record is None else self._status(record)

    def zones(self, name: str) -> Zones | None:
        """Return the zones and lines of a stream, for their counts; None when there is no such stream, or it has none."""
        record = self._streams.by_name.get(name)
        return None if record is None else record.zones

    def flight(self, name: str) -> Flight | None:
        """Return the outcomes of a live stream's frames; None when there is no such stream."""
        record = self._streams.by_name.get(name)
        if record is None or record.live is None:
            return None
        info, live = record.info, record.live
        ingest, reason = (info.ingest, info.ingest_reason) if info else (None, "")
        return Flight(live.flight, tuple(live.changes.copy()), live.wanted_fps, ingest, reason)

    def lane_statuses(self) -> list[LaneStatus]:
        """Return the status of every lane that has an engine."""
        return self._lanes.statuses()

    @property
    def cpu_cores(self) -> tuple[float, float]:
        """The CPU time of this process and of all others, seconds per second, over the last ten seconds or so."""
        own, machine = self._cpu.per_second
        return own / 1e9, max(0.0, machine - own) / 1e9

    def records(self) -> list[StreamRecord]:
        """Return the streams' counters; exact once the supervisor is closed."""
        return self._streams.records()

    @property
    def error(self) -> VisionInferError | None:
        """The error that stopped all streams, if any: of an engine, or of an output that all share."""
        return self._error

    def account(self) -> StageAccount:
        """Return where the frames' time went; exact once the supervisor is closed."""
        account = StageAccount()
        account.merge(self._stage.account)
        account.merge(self._writes)
        return account

    def work(self) -> Work:
        """Return how busy the stages were; exact once the supervisor is closed."""
        records = self._streams.records()
        present = sum(worker.present_ns for worker in self._workers)
        return Work(
            decode=Busy(sum(record.decode_ns for record in records), sum(record.present_ns for record in records)),
            preprocess=Busy(sum(worker.preprocess_ns for worker in self._workers), present),
            inference=Busy(sum(worker.inference_ns for worker in self._workers), present),
            postprocess=Busy(self._stage.busy_ns, self._stage.present_ns),
            write=self._write,
        )

    @property
    def padded(self) -> int:
        """The number of batch slots that were padding so far."""
        return self._dispatch.padded

    def _status(self, record: StreamRecord) -> StreamStatus:
        live = record.live
        lanes = [] if live is None else self._lanes.of_group(live.lane)
        if live is None or not lanes:
            return status_of(record)
        return live_status_of(record, live, lanes[0], self._dispatch.engine_ns(record.name), self._clock.monotonic_ns())
