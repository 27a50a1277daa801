"""The settings of a stream → the command that the supervisor carries out."""

from __future__ import annotations

from vision_infer.analyze.track import selection_confidence
from vision_infer.config.serve import StreamSettings
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import UsageError
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import Lane, make_selector, scores_by_class
from vision_infer.stream.source import LiveOptions, SourceSpec


def stream_command(
    name: str, settings: StreamSettings, lane: Lane, secondary: Lane | None, allow_networks: tuple[str, ...]
) -> AddStream:
    """The command for a stream.

    Args:
        name: of the stream.
        settings: what is wanted.
        lane: where its frames go.
        then: where the crops of its detections go, if anywhere.
        allow_networks: where its URL may lead; empty: anywhere.

    Raises:
        UsageError: a class that the network does not know.
    """
    card = lane.engine.card
    shown = card.confidence if settings.confidence is None else settings.confidence
    by_class = scores_by_class(card, settings.per_class)
    least, least_by_class = shown, by_class
    if settings.tracked:  # a tracker finds lost objects again by their detections of low score
        least = selection_confidence(shown)
        least_by_class = {number: selection_confidence(score) for number, score in by_class.items()}
    return AddStream(
        live_source(name, settings.detect, settings, allow_networks),
        lane.name,
        track=shown if settings.tracked else None,
        track_per_class=by_class,
        weight=settings.weight,
        min_size=settings.min_size,
        region=settings.region,
        fps=settings.fps,
        gate_heartbeat_s=None if settings.gate is None else settings.gate_heartbeat_s,
        secondary=None if secondary is None else secondary.name,
        selector=make_selector(card, least, settings.iou, settings.classes, least_by_class),
        zones=settings.zones,
        lines=settings.lines,
        hook=settings.hook,
        reconnect=settings.reconnect,
    )


def check_second(where: str, first: ModelCard, second: ModelCard | None = None) -> None:
    """Refuse two networks of which one cannot follow the other.

    Args:
        where: the setting that names the second.
        first: looks at the picture.
        second: looks at each detection; None where it is not read yet.

    Raises:
        UsageError: the first finds nothing to look at, or the second is for detection too.
    """
    if first.task != "detect":
        found = f"{first.name} is a network for '{first.task}' and finds nothing to look at"
        raise UsageError(f"{where}: {found}", "leave it out, or give the stream a model for 'detect'")
    if second is not None and second.task == "detect":
        raise UsageError(f"{where}: {second.name} is a network for 'detect'", "name one for classification or embeddings")


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
        loop=settings.loop,
        assemble=settings.assemble,
        allow_networks=allow_networks,
    )
    return SourceSpec(name, "live", (url,), live=live, decode=settings.decode)
