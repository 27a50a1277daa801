"""The pool of buffers: one for each batch in flight, each lent and released once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.buffers import BufferPool
from vision_infer.engine.engine import Engine, Loan
from vision_infer.engine.runtimes.null import CANDIDATES, NullEngine

OUTPUTS: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
    "boxes": ((5, 4), np.dtype(np.float32)),
    "class_ids": ((5,), np.dtype(np.int32)),
}


def pool(count: int = 2, sizes: tuple[int, ...] = (1, 2, 4)) -> BufferPool:
    return BufferPool(Size(8, 6), sizes, count, OUTPUTS)


def test_a_buffer_is_as_large_as_the_largest_batch() -> None:
    made = pool()
    assert [buffer.images.shape for buffer in made.buffers] == [(4, 6, 8, 3)] * 2
    assert made.buffers[0].outputs["boxes"].shape == (4, 5, 4)
    assert made.buffers[0].outputs["class_ids"].dtype == np.int32
    assert made.nbytes == 2 * (4 * 6 * 8 * 3 + 4 * 5 * 4 * 4 + 4 * 5 * 4)


def test_slots_are_views_of_the_buffer_in_order() -> None:
    made = pool()
    loan = made.lend(2)
    assert len(loan.slots) == 2
    for place, slot in enumerate(loan.slots):
        assert slot.pixels.shape == (6, 8, 3)
        assert slot.layout is None
        slot.pixels[:] = place + 1
    assert [int(image.max()) for image in loan.buffer.images] == [1, 2, 0, 0]


def test_a_slot_remembers_its_layout_from_loan_to_loan() -> None:
    made = pool(count=1)
    box = letterbox(Size(8, 3), Size(8, 6), "center", (0, 0, 0))
    loan = made.lend(4)
    loan.slots[1].layout = box
    made.release(loan)
    assert [slot.layout for slot in made.lend(2).slots] == [None, box]


@pytest.mark.parametrize("count", [0, 3, 5, -1])
def test_a_batch_size_that_the_engine_does_not_run(count: int) -> None:
    made = pool()
    with pytest.raises(EngineError, match=r"batches of .*\[1, 2, 4\]"):
        made.lend(count)
    assert [made.lend(1), made.lend(4)]  # the failed call lent nothing


def test_an_empty_pool_lends_again_after_a_release() -> None:
    made = pool()
    first, second = made.lend(1), made.lend(4)
    assert first.buffer is not second.buffer
    with pytest.raises(EngineError, match="all 2 buffers"):
        made.lend(1)
    made.release(first)
    assert made.lend(2).buffer is first.buffer


def test_a_second_release_is_an_error() -> None:
    made = pool()
    loan = made.lend(1)
    made.release(loan)
    with pytest.raises(ValueError, match="released before"):
        made.release(loan)


def test_threads_never_get_the_same_buffer() -> None:
    made = pool(count=4)
    held: set[int] = set()
    lock = threading.Lock()

    def work(_: int) -> None:
        for _ in range(300):
            loan = made.lend(1)
            with lock:
                assert id(loan.buffer) not in held
                held.add(id(loan.buffer))
            with lock:
                held.remove(id(loan.buffer))
            made.release(loan)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4), timeout=60))
    assert [made.lend(1) for _ in range(4)]


def null_engine(card: ModelCard, **options: Any) -> Engine:
    return NullEngine(
        card,
        np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32),
        np.array([0.9, 0.4], np.float32),
        np.array([2, 0], np.int32),
        **options,
    )


def test_the_null_engine_returns_the_same_for_every_image(card: ModelCard) -> None:
    with null_engine(card, batch_sizes=(1, 2, 3), in_flight=2) as engine:
        assert engine.input_size == Size(32, 32)
        assert engine.buffer_bytes == 2 * 3 * 32 * 32 * 3
        loan: Loan = engine.lend(3)
        other = engine.lend(1)
        raw = engine.collect(engine.submit(loan))
        engine.release(other)
        assert raw.ended_ns >= raw.started_ns > 0
        assert raw.outputs["boxes"].shape == (3, CANDIDATES, 4)
        assert (raw.outputs["scores"][:, :2] == np.array([0.9, 0.4], np.float32)).all()
        assert not raw.outputs["scores"][:, 2:].any()
        assert [engine.lend(3), engine.lend(3)]


def test_the_null_engine_refuses_too_many_boxes(card: ModelCard) -> None:
    with pytest.raises(ValueError, match="at most 300"):
        NullEngine(card, np.zeros((301, 4), np.float32))
