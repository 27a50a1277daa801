"""Bounded queues between threads: they block when full, lose nothing, and stop blocking when they are closed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.pipeline.fakes import LONG_S
from tests.sink.results import frame, result_of
from tests.support.hand_clock import HandClock
from vision_infer.pipeline.channel import Channel, ResultChannel, Window


def test_a_reader_gets_all_results_in_order_then_the_end() -> None:
    channel = ResultChannel(capacity=3)

    def write() -> None:
        for index in range(200):
            channel.write(frame(index), result_of(frame(index)))
        channel.close(True)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        assert [result.frame for result in channel] == list(range(200))
        writing.result(LONG_S)
    assert list(channel) == []
    assert not channel.needs_images


def test_frames_without_a_result_do_not_reach_the_reader() -> None:
    channel = ResultChannel()
    channel.write(frame(), None)
    channel.finish()
    assert list(channel) == []


def test_a_full_channel_blocks_the_writer_until_it_is_closed() -> None:
    channel = ResultChannel(capacity=2)
    written: list[int] = []
    third = threading.Event()

    def write() -> None:
        for index in range(4):
            if index == 2:
                third.set()
            channel.write(frame(index), result_of(frame(index)))
            written.append(index)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert third.wait(LONG_S)
    thread.join(0.1)  # time for an error to show
    assert written == [0, 1]
    channel.finish()
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert [result.frame for result in channel] == [0, 1]  # results after the end are discarded


def test_a_window_gives_out_all_its_credits() -> None:
    window = Window(2)
    window.acquire()
    window.acquire()
    got = threading.Event()

    def take() -> None:
        window.acquire()
        got.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert not got.wait(0.1)  # time for an error to show
    window.release()
    assert got.wait(LONG_S)
    thread.join(LONG_S)
    with pytest.raises(ValueError, match="at least 1"):
        Window(0)


def test_a_waiting_thread_continues_when_half_of_the_credits_are_free() -> None:
    window = Window(6)
    for _ in range(6):
        assert window.acquire()
    got = threading.Event()

    def take() -> None:
        window.acquire()
        got.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    window.release()
    window.release()
    assert not got.wait(0.1)  # time for an error to show
    window.release()
    assert got.wait(LONG_S)
    thread.join(LONG_S)
    assert [window.try_acquire() for _ in range(3)] == [True, True, False]


def waiting_for(window: Window, took: list[bool]) -> threading.Thread:
    """A thread that waits for a credit."""
    thread = threading.Thread(target=lambda: took.append(window.acquire()), daemon=True)
    thread.start()
    while not window._waiting:
        thread.join(0.001)
    return thread


def test_with_many_streams_a_waiting_thread_continues_when_all_credits_are_free() -> None:
    window = Window(8)
    many, took = [True], list[bool]()
    window.bound(3, 3, lambda: many[0])
    for _ in range(3):
        assert window.try_acquire()
    waiting = waiting_for(window, took)
    window.release()
    window.release()
    waiting.join(0.05)
    assert waiting.is_alive()
    window.release()
    waiting.join(LONG_S)
    assert took == [True]
    many[0] = False  # the other streams have ended meanwhile
    while window.try_acquire():
        pass
    waiting = waiting_for(window, took)
    window.release()
    waiting.join(LONG_S)
    assert took == [True, True]


def test_shrinking_and_closing_a_window() -> None:
    window = Window(8)
    window.bound(2, 2)
    assert [window.try_acquire() for _ in range(3)] == [True, True, False]
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(window.acquire()), daemon=True)
    thread.start()
    window.close()
    thread.join(LONG_S)
    assert answers == [False]
    window.release()
    assert window.acquire() is False


class Passing:
    """A window whose credits are returned when a thread has waited for some time."""

    def __init__(self, window: Window, clock: HandClock) -> None:
        self.window, self.clock = window, clock

    def wait(self, took_ms: float) -> int:
        """Take all credits, wait for more, and return all; return their number."""
        taken = 0
        while self.window.try_acquire():
            taken += 1
        self.clock.move(took_ms / 1000)
        waiting = threading.Thread(target=self.window.acquire, daemon=True)
        waiting.start()
        while waiting.is_alive() and not self.window._waiting:
            waiting.join(0.001)
        for _ in range(taken):
            self.window.release()
        waiting.join(LONG_S)
        assert not waiting.is_alive()
        self.window.release()
        return taken


def test_a_window_widens_while_frames_pass_quickly() -> None:
    clock = HandClock()
    passing = Passing(Window(8, 32, clock), clock)
    assert [passing.wait(1) for _ in range(5)] == [8, 8, 16, 32, 32]
    assert [passing.wait(20) for _ in range(3)] == [32, 32, 32]  # neither often nor seldom
    assert [passing.wait(50) for _ in range(3)] == [32, 8, 8]
    assert [passing.wait(1) for _ in range(3)] == [8, 16, 32]


def test_a_window_with_a_fixed_size_does_not_widen() -> None:
    clock = HandClock()
    passing = Passing(Window(8, clock=clock), clock)
    assert [passing.wait(1) for _ in range(4)] == [8, 8, 8, 8]
    passing.window.bound(4, 6)
    assert [passing.wait(1) for _ in range(4)] == [4, 4, 6, 6]


def test_a_channel_never_exceeds_its_capacity() -> None:
    channel: Channel[int] = Channel(3)
    put: list[int] = []
    fourth = threading.Event()

    def write() -> None:
        for number in range(300):
            if number == 3:
                fourth.set()
            channel.put(number)
            put.append(number)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert fourth.wait(LONG_S)
    thread.join(0.1)  # time for an error to show
    assert put == [0, 1, 2]
    assert [channel.get() for _ in range(300)] == list(range(300))
    thread.join(LONG_S)
    assert not thread.is_alive()
