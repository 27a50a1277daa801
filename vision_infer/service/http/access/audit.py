"""The audit log: who changed what and when, and who logged in from where; JSON Lines, appended and rotated."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeAlias

import anyio
from anyio import to_thread
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from vision_infer.config.access.settings import AuditSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import OutputError
from vision_infer.core.result import utc
from vision_infer.service.http.access.principal import Principal
from vision_infer.sink.archive.append_file import AppendFile
from vision_infer.sink.archive.rotation import Rotation, delete_older

Event: TypeAlias = Literal["change", "login", "logout", "refused"]
FILE_NAME = "audit.jsonl"
MAX_TEXT = 200
"""The maximum length of a text of a client in a record, characters."""
_log = logging.getLogger("vision_infer.audit")


class Audit(Collector):
    """Appends records. A record that cannot be written is counted and logged; requests and streams continue.

    Args:
        settings: The file and its rotation.
        folder: The state folder.
        clock: The source of time.
    """

    def __init__(self, settings: AuditSettings, folder: Path, clock: Clock) -> None:
        self.path = settings.file or folder / FILE_NAME
        self.lost = 0
        """The number of records that could not be written."""
        self._rotation = Rotation(max_bytes=round(settings.rotate_mb * 1e6), keep=settings.keep)
        self._clock = clock
        # Serializes records: a thread of the requests holds it while it writes one.
        self._lock = threading.Lock()
        self._threads = anyio.CapacityLimiter(1)  # a disk that hangs delays records, not other requests

    async def record(
        self, event: Event, principal: Principal | None, method: str, route: tuple[str, str], status: int, address: str
    ) -> None:
        """Write a record; call it on the event loop. See :meth:`write`."""
        await to_thread.run_sync(self.write, event, principal, method, route, status, address, limiter=self._threads)

    def write(
        self, event: Event, principal: Principal | None, method: str, route: tuple[str, str], status: int, address: str
    ) -> None:
        """Write a record; any other thread may call it.

        Args:
            event: The kind of the record.
            principal: Who did it; None if it is unknown.
            method: The HTTP method.
            route: The template of the path, and the name in it.
            status: The HTTP status of the response.
            address: The address of the client.
        """
        who = {} if principal is None else {"user": principal.name, "subject": principal.subject, "role": principal.role}
        template, target = route
        values: dict[str, str | int] = {
            "at": utc(self._clock.wall_ns()),
            "event": event,
            **who,
            "method": method,
            "route": template,
            "target": target,
        }
        values |= {"status": status, "address": address}
        cut = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in values.items()}
        self._append(json.dumps(cut).encode() + b"\n")  # ASCII: no text of a client can break a line or a terminal

    def collect(self) -> Iterable[Metric]:
        """Yield the metric of lost records."""
        yield CounterMetricFamily("vision_infer_audit_lost_records", "Number of audit records that were not written.", self.lost)

    def _append(self, row: bytes) -> None:
        with self._lock:
            try:
                with closing(AppendFile(self.path, self._clock)) as file:
                    if not file.is_due(len(row), self._rotation):
                        file.write(row)
                        return
                    file.move_away()
                delete_older(self.path, self._rotation.keep)
                with closing(AppendFile(self.path, self._clock)) as file:
                    file.write(row)
            except (OSError, OutputError) as error:
                self.lost += 1
                reason = getattr(error, "strerror", None) or str(error)
                _log.error("%s: the audit record cannot be written: %s; %d are lost", self.path, reason, self.lost)


def route_of(path: str, templates: Iterable[str]) -> tuple[str, str]:
    """Return the template of a path, such as ``/api/v1/streams/{name}``, and the first name in it; both may be empty."""
    for template in templates:
        parts = re.split(r"\{[^}]+\}", template)
        found = re.fullmatch("([^/]+)".join(map(re.escape, parts)), path)
        if found is not None:
            return template, found[1] if found.groups() else ""
    return "", ""
