"""The commands to the supervisor: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vision_infer.analyze.select import Selector
from vision_infer.config.region import Region
from vision_infer.config.service.reconnect import Reconnect
from vision_infer.config.stream_policy import StreamPolicy
from vision_infer.config.zones import LineSettings, ZoneSettings
from vision_infer.sink.sink import OutputSpec, Sink
from vision_infer.stream.source import SourceSpec


@dataclass(frozen=True, slots=True)
class AddStream:
    """Read this source, infer its frames in this lane, and write the results there."""

    source: SourceSpec
    lane: str
    """The lane, or the group of lanes: then each image goes into the lane whose input size fits it."""
    outputs: tuple[OutputSpec, ...] = ()
    policy: StreamPolicy = field(default_factory=StreamPolicy)
    """The user's settings of the stream."""
    every: int = 1
    """Infer every N-th frame."""
    track: float | None = None
    """The minimum confidence of a reported detection, with tracking; None: no tracking."""
    weight: float = 1.0
    """The share of the engine's time, relative to other streams."""
    track_per_class: Mapping[int, float] = field(default_factory=dict)
    """The value of ``track`` for single classes, by class number."""
    track_classes: frozenset[int] | None = None
    """The classes of the tracks to report, by number; None: all."""
    region: Region | None = None
    """The region in which detections count; None: everywhere."""
    row_stream: str = ""
    """The name of the stream in its rows; empty: that of the source. Several streams can read parts of the same file."""
    first_frame: int = 0
    """Frames before this one are decoded but skipped: an earlier run has their results."""
    selector: Selector | None = None
    """Selects the candidates that become detections; None: the lane's selector."""
    zones: Mapping[str, ZoneSettings] = field(default_factory=dict)
    """By name; they need :attr:`track`."""
    lines: Mapping[str, LineSettings] = field(default_factory=dict)
    """By name; they need :attr:`track`."""
    counts_interval_s: float = 60.0
    """The duration of the intervals for which crossings and visits are counted, seconds."""
    count_intervals: int | None = None
    """The maximum number of intervals with events that are kept; None: all."""
    secondary: str | None = None
    """The lane of the secondary model, which classifies or embeds each detection."""
    reconnect: Reconnect = field(default_factory=Reconnect)
    """The reconnection settings of a live stream."""
    must_connect: bool = False
    """Whether a live stream fails if its first connection fails. Connections that are lost later are always made again."""
    private_sink: Sink | None = None
    """An open sink that receives the results instead of ``outputs`` and the shared sinks. Such a stream reports no events. A
    recorded stream only."""
