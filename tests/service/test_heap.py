"""Threads share few heaps, and free memory is returned to the system periodically."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.hand_clock import HandClock
from vision_infer.service.operations.heap import EVERY_NS, Heap, share_heaps, system_function

GLIBC = pytest.mark.skipif(system_function("gnu_get_libc_version") is None, reason="another C library than glibc")
HEAPS_OF_TWENTY_THREADS = """
import ctypes, sys, threading
from vision_infer.service.operations.heap import share_heaps, system_function
if sys.argv[1] == "shared":
    share_heaps(1, system_function("mallopt"))
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
met = threading.Barrier(21)
def work():
    malloc(5000)
    met.wait()
    met.wait()
for _ in range(20):
    threading.Thread(target=work, daemon=True).start()
met.wait()
fields = [line.split() for line in open("/proc/self/maps")]
heaps = [one for one in fields if len(one) == 5 and one[1] == "rw-p" and int(one[0].split("-")[0], 16) % (1 << 26) == 0]
print(len(heaps))
met.wait()
"""


def test_free_memory_is_returned_periodically() -> None:
    clock, given = HandClock(), list[int]()
    heap = Heap(given.append, clock)
    for step in range(100):
        clock.now = 10**12 + step * EVERY_NS // 10
        heap.trim_if_due()
    assert given == [0] * 9


@pytest.mark.parametrize(("cores", "heaps"), [(1, 2), (2, 2), (16, 16)])
def test_one_heap_for_each_core_and_at_least_two(cores: int, heaps: int) -> None:
    calls: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> None:
        calls.append((parameter, value))

    share_heaps(cores, mallopt)
    assert calls == [(-8, heaps)]


def test_a_system_without_these_functions_is_not_affected() -> None:
    clock = HandClock()
    heap = Heap(None, clock)
    clock.now += 2 * EVERY_NS
    heap.trim_if_due()
    share_heaps(4, None)
    assert system_function("no_such_function_anywhere") is None


@GLIBC
def test_the_c_library_returns_memory() -> None:
    clock = HandClock()
    heap = Heap(system_function("malloc_trim"), clock)
    clock.now += 2 * EVERY_NS
    heap.trim_if_due()


@GLIBC
def test_twenty_threads_share_two_heaps() -> None:
    def heaps(how: str) -> int:
        command = [sys.executable, "-c", HEAPS_OF_TWENTY_THREADS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    assert heaps("shared") <= 2 < heaps("not shared")
