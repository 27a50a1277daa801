"""What is asked of the supervisor: plain values, which could come from another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vision_infer.analyze.select import Selector
from vision_infer.config.region import Region
from vision_infer.config.serve import Reconnect
from vision_infer.config.stream_policy import StreamPolicy
from vision_infer.config.zones import LineSettings, ZoneSettings
from vision_infer.sink.sink import OutputSpec, Sink
from vision_infer.stream.source import SourceSpec


@dataclass(frozen=True, slots=True)
class AddStream:
    """Read this source, infer its frames in this lane, and write the results there."""

    source: SourceSpec
    lane: str
    """or the group of lanes of which each picture goes into the one that fits it"""
    outputs: tuple[OutputSpec, ...] = ()
    policy: StreamPolicy = field(default_factory=StreamPolicy)
    """The user's settings of the stream."""
    every: int = 1
    """Infer every N-th frame."""
    track: float | None = None
    """least score of a detection that is shown, with tracking; None: no tracking"""
    weight: float = 1.0
    """share of the engine's time"""
    track_per_class: Mapping[int, float] = field(default_factory=dict)
    """what ``track`` is for single classes, by class number"""
    region: Region | None = None
    """where detections count; None: everywhere"""
    first_frame: int = 0
    """frames before this one are decoded and left out: an earlier run has their results"""
    selector: Selector | None = None
    """which candidates become detections; None: the lane's choice"""
    zones: Mapping[str, ZoneSettings] = field(default_factory=dict)
    """by name; with :attr:`track` only"""
    lines: Mapping[str, LineSettings] = field(default_factory=dict)
    """by name; with :attr:`track` only"""
    secondary: str | None = None
    """lane of a second network, for classification or embeddings, that looks at each detection"""
    reconnect: Reconnect = field(default_factory=Reconnect)
    """of a live stream"""
    private_sink: Sink | None = None
    """An open sink that receives the results instead of ``outputs`` and the shared sinks. Such a stream reports no events. A
    recorded stream only."""
