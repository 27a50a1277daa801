"""Frames are assembled from payloads as soon as they are complete."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.stream.live.assembly import AssembledFrame, Assembler, Payload

MTU = 1400
LEARNED = 25


def payloads(number: int, sizes: list[int], mtu: int = MTU, hevc: bool = False) -> list[Payload]:
    """Return a frame with several slices as RTP payloads; the first byte after the header identifies the frame."""
    key = number % 10 == 0
    header = bytes([(19 if key else 1) << 1, 1]) if hevc else bytes([0x65 if key else 0x41])
    pieces = [b"\0\0\0\1" + (b"\x46\1\x50" if hevc else b"\x09\x30")]
    for size in sizes:
        unit = b"\0\0\0\1" + header + bytes([number % 200 + 20]) * size
        pieces.append(unit[: mtu + 4])
        pieces += [unit[at : at + mtu] for at in range(mtu + 4, len(unit), mtu)]
    return [Payload(data, number * 3000, number * 1000 + place, 0) for place, data in enumerate(pieces)]


def feed(assembler: Assembler, pieces: list[Payload]) -> list[tuple[int, AssembledFrame]]:
    """Return the assembled frames, and the frame whose payload completed each."""
    return [(piece.pts // 3000, whole) for piece in pieces for whole in assembler.push(piece)]


@pytest.mark.parametrize("hevc", [False, True])
@pytest.mark.parametrize("slices", [1, 2, 4])
def test_after_learning_a_frame_is_output_with_its_last_payload(slices: int, hevc: bool) -> None:
    rng = random.Random(slices)
    assembler = Assembler("hevc" if hevc else "h264")
    late = early = 0
    for number in range(300):
        sizes = [rng.randint(50, 5000) for _ in range(slices)]
        pieces = payloads(number, sizes, hevc=hevc)
        for at, whole in feed(assembler, pieces):
            given = whole.first.pts // 3000
            assert whole.key == (given % 10 == 0)
            if at == given:
                early += 1
                assert whole.data == b"".join(piece.data for piece in pieces)
                assert whole.first == pieces[0]
            else:
                late += 1
                assert at == given + 1
    assert late + early >= 299
    assert early > 260
    assert assembler.incomplete == 0


def test_a_last_payload_of_maximum_length_waits_for_the_next_frame() -> None:
    """Its slice may continue in another payload."""
    assembler = Assembler("h264")
    for number in range(LEARNED):
        feed(assembler, payloads(number, [3000]))
    full = payloads(LEARNED, [2 * MTU - 1])
    assert len(full[-1].data) == MTU
    assert [at for at, _ in feed(assembler, full)] == []
    out = feed(assembler, payloads(LEARNED + 1, [3000]))
    assert [(at, whole.first.pts // 3000) for at, whole in out] == [(LEARNED + 1, LEARNED), (LEARNED + 1, LEARNED + 1)]
    assert assembler.incomplete == 0


def test_only_one_frame_is_output_incomplete() -> None:
    """A camera changes to three slices: one frame is incomplete, then each waits for the next one."""
    assembler = Assembler("h264")
    for number in range(LEARNED):
        feed(assembler, payloads(number, [300, 200]))
    assert assembler.early
    feed(assembler, payloads(LEARNED, [300, 200, 250]))
    assert assembler.incomplete == 1
    for number in range(LEARNED + 1, LEARNED + 100):
        assert all(at == whole.first.pts // 3000 + 1 for at, whole in feed(assembler, payloads(number, [300, 200])))
    assert assembler.incomplete == 1


def test_filler_after_the_last_slice_is_ignored() -> None:
    assembler = Assembler("h264")
    for number in range(100):
        pieces = payloads(number, [400])
        filler = Payload(b"\0\0\0\1\x0c" + b"\xff" * 30, number * 3000, 0, 0)
        feed(assembler, [*pieces, filler])
    assert assembler.early
    assert assembler.incomplete == 0


@pytest.mark.parametrize("slices", [[1, 2], [1, 1, 3]])
def test_frames_with_varying_slice_counts_are_never_output_early(slices: list[int]) -> None:
    assembler = Assembler("h264")
    for number in range(200):
        sizes = [300] * slices[number % len(slices)]
        assert all(at != whole.first.pts // 3000 for at, whole in feed(assembler, payloads(number, sizes)))
    assert assembler.incomplete == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40), st.booleans()), max_size=200))
def test_only_payloads_that_arrive_too_late_are_lost(given: list[tuple[int, bytes, bool]]) -> None:
    assembler = Assembler("h264")
    pts = put = got = 0
    for step, data, start in given:
        pts += step
        piece = Payload((b"\0\0\0\1" if start else b"") + data, pts, pts, 0)
        put += len(piece.data)
        got += sum(len(whole.data) for whole in assembler.push(piece))
    got += sum(len(whole.data) for whole in assembler.flush())
    assert got == put or assembler.incomplete or assembler.early
