"""What happens to engines while the service runs: beside the changes of streams, so that a change of speed can be explained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from vision_infer.core.result import utc
from vision_infer.stream.redact import redact

EngineChange = Literal["swapped", "hanging"]


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """Something happened to a lane's engine."""

    lane: str
    change: EngineChange
    """``swapped``: the lane goes on with this one; ``hanging``: a batch does not come back from it"""
    engine: str
    """runtime-device-precision"""
    at_ns: int
    """monotonic"""
    reason: str = ""
    """more of it, in one line without secrets"""


def engine_row(event: EngineEvent, wall_ns: int) -> str:
    """A change of an engine as one line of JSON.

    Args:
        event: the change.
        wall_ns: when it was, nanoseconds since 1970 (UTC).
    """
    row = {"type": "engine", "lane": event.lane, "change": event.change, "engine": event.engine}
    return json.dumps(row | {"at": utc(wall_ns), "reason": redact(event.reason)}, ensure_ascii=False)
