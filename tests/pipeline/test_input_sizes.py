"""A model with several input sizes: each image goes into the input that fits it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.fakes import EchoEngine, FakeImage, FakeSink, FakeSource, add, finish
from vision_infer.analyze.select import Selector
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size, best_input
from vision_infer.engine.buffers import BufferPool
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.stream.source import SourceSpec

SQUARE, WIDE = Size(640, 640), Size(640, 384)
sizes = st.builds(Size, st.integers(1, 4000), st.integers(1, 4000))


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (Size(1920, 1080), WIDE),
        (Size(640, 360), WIDE),
        (Size(640, 480), SQUARE),  # in the other input it would be a fifth smaller
        (Size(640, 427), SQUARE),  # a photograph: 8 % smaller
        (Size(640, 390), WIDE),
        (Size(1080, 1920), SQUARE),
        (Size(500, 500), SQUARE),
        (Size(2560, 800), WIDE),
    ],
)
def test_the_smallest_input_with_the_same_scale_is_chosen(image: Size, wanted: Size) -> None:
    assert best_input(image, (SQUARE, WIDE)) == best_input(image, (WIDE, SQUARE)) == wanted


@given(sizes, st.lists(sizes, min_size=1, max_size=6, unique=True))
def test_the_chosen_input_is_close_to_the_largest_scale(image: Size, inputs: list[Size]) -> None:
    def scale(size: Size) -> float:
        return min(size.width / image.width, size.height / image.height)

    best = best_input(image, inputs)
    assert best in inputs
    assert scale(best) >= 0.97 * max(scale(size) for size in inputs)


class SizedSource(FakeSource):
    """Its images change their size in the middle."""

    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            assert isinstance(frame.image, FakeImage)
            frame.image.size = Size(256, 256) if frame.index < self.count // 2 else Size(512, 256)
            yield frame


class SizedEngine(EchoEngine):
    """An engine for images of another size."""

    def __init__(self, size: Size) -> None:
        super().__init__(2, (1, 2))
        self.input_size = size
        self.pool = BufferPool(size, self.batch_sizes, self.in_flight, {})


@pytest.mark.parametrize("live", [False, True])
def test_a_stream_with_changing_image_sizes_uses_both_lanes(live: bool) -> None:
    own, wide = SizedEngine(Size(256, 256)), SizedEngine(Size(512, 256))
    lanes = [
        Lane("main", own, Selector(confidence=0.1, iou=None), group="main"),
        Lane("main@256x512", wide, Selector(confidence=0.1, iou=None), group="main"),
    ]
    source, shared = SizedSource(0, 60, live=live), FakeSink()

    def open_stream(spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> FakeSource:
        return source

    supervisor = Supervisor(lanes, [shared], open_stream=open_stream)
    supervisor.add(add(source))
    finish(supervisor)
    assert shared.indices() == sorted(set(shared.indices()))
    assert {index >= 30 for batch in wide.batches for _, index in batch} <= {True}
    assert {index >= 30 for batch in own.batches for _, index in batch} <= {False}
    if not live:
        assert shared.indices() == list(range(60))
        assert sum(map(len, wide.batches)) == sum(map(len, own.batches)) == 30
