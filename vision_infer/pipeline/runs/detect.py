"""Detect objects in single images with a lane, without a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vision_infer.analyze.select import select
from vision_infer.analyze.tiling import Tiling, join_tiles
from vision_infer.core.detections import Detections
from vision_infer.core.image import Image
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.stream.crop import cut


def detect(lane: Lane, images: Sequence[Image]) -> Iterator[Detections]:
    """Yield the detections of each image."""
    for start in range(0, len(images), lane.engine.batch_sizes[-1]):
        yield from _detect(lane, images, start)


def detect_tiles(lane: Lane, image: Image, tiling: Tiling) -> Detections:
    """Return the detections of an image that is cut into tiles.

    Raises:
        UsageError: It cannot be cut so.
    """
    tiles = tiling.of(image.size)
    found = list(detect(lane, list(cut(image, tiles)) if tiles else [image]))
    return join_tiles(found, tiles, image.size, lane.selector.groups) if tiles else found[0]


def _detect(lane: Lane, images: Sequence[Image], start: int) -> list[Detections]:
    engine = lane.engine
    batch = images[start : start + engine.batch_sizes[-1]]
    size = next(size for size in engine.batch_sizes if size >= len(batch))
    letterboxes = [lane.letterbox(image.size) for image in batch]
    loan = engine.lend(size)
    try:
        for image, slot, letterbox in zip(batch, loan.slots, letterboxes, strict=False):
            image.write_into(slot, letterbox)
    except BaseException:
        engine.release(loan)
        raise
    outputs = engine.collect(engine.submit(loan)).outputs
    return select(outputs, letterboxes, lane.selector)
