"""The settings of a stream → the command that the supervisor carries out."""

from __future__ import annotations

from vision_infer.config.serve import StreamSettings
from vision_infer.pipeline.add_stream import add_stream
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.stream.source import MAX_LIVE_PIXELS, LiveOptions, ReadOptions, SourceSpec

COUNT_INTERVALS = 10_080
"""The maximum number of intervals with counts that are kept: a week of minutes."""


def live_stream_command(
    name: str, settings: StreamSettings, lane: Lane, secondary: Lane | None, allow_networks: tuple[str, ...]
) -> AddStream:
    """Return the command that adds a stream.

    Raises:
        UsageError: The model does not know a class.
    """
    return add_stream(
        live_source(name, settings.detect, settings, allow_networks),
        lane,
        settings,
        weight=settings.weight,
        region=settings.region,
        secondary=None if secondary is None else secondary.name,
        zones=settings.zones,
        lines=settings.lines,
        count_intervals=COUNT_INTERVALS,
        reconnect=settings.reconnect,
    )


def live_source(name: str, url: str, settings: StreamSettings, allow_networks: tuple[str, ...]) -> SourceSpec:
    """One of a stream's URLs as a source."""
    live = LiveOptions(
        transport=settings.transport,
        open_timeout_s=settings.open_timeout_s,
        stall_timeout_s=settings.stall_timeout_s,
        max_age_s=settings.max_age_ms / 1000,
        clock=settings.clock,
        keyframes_only=settings.keyframes_only,
        skip_nonref=settings.skip_nonref,
        audio=settings.audio,
        loop=settings.loop,
        ingest=settings.ingest,
        allow_networks=allow_networks,
    )
    read = ReadOptions(max_pixels=MAX_LIVE_PIXELS)
    return SourceSpec(name, "live", (url,), read=read, live=live, decode=settings.decode)
