"""Fuzzing of the decoder with mutated video files: no crash, no hang, and bounded memory.

    python -m tests.support.fuzz [--count 2000] [--seed 0]

A mutation is made of a number alone, so that a file that did harm can be made again:
``python -m tests.support.fuzz --only NUMBER``.
Files are read in child processes; one that dies is found by the file it had announced, one that stands still by its silence.
"""

from __future__ import annotations

import argparse
import random
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import media
from vision_infer.core.errors import StreamError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.buffers import BufferPool
from vision_infer.stream.find import open_source
from vision_infer.stream.source import SourceSpec
from vision_infer.telemetry.process import peak_rss_bytes

SILENCE_S = 30.0
"""The time without output after which a child process counts as hanging, seconds; a file takes some milliseconds."""
MAX_BYTES = 700_000_000
"""The maximum resident memory of a child process."""
PER_CHILD = 100
INPUT = Size(416, 416)
HEVC_10BIT = media.Clip(
    codec="libx265", pix_fmt="yuv420p10le", frames=12, options=(("preset", "ultrafast"), ("x265-params", "log-level=none"))
)
VP9 = media.Clip(suffix=".webm", codec="libvpx-vp9", frames=12, options=(("deadline", "realtime"), ("cpu-used", "8")))
AV1 = media.Clip(suffix=".mkv", codec="libsvtav1", frames=12, options=(("preset", "12"),))
TRANSPORT = media.Clip(suffix=".ts", codec="mpeg2video", frames=12, options=())
RECIPES = (
    media.H264,
    media.B_FRAMES,
    media.WITH_AAC,
    media.VARIABLE,
    media.LATE_START,
    media.ODD,
    media.ODD_MJPEG,
    media.WITH_PCM_AVI,
    HEVC_10BIT,
    VP9,
    AV1,
    TRANSPORT,
)


@dataclass(slots=True)
class Outcome:
    """The results of a number of files."""

    files: int = 0
    frames: int = 0
    refused: int = 0
    """The number of files that could not be opened or read to the end, with a one-line error."""
    crashed: list[int] = field(default_factory=list)
    hung: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """The exceptions of our code that are not a StreamError."""
    peak_rss_bytes: int = 0


def mutate(number: int) -> tuple[bytes, str]:
    """Return the content of a mutated file, and its suffix."""
    chance = random.Random(number)
    recipe = RECIPES[number % len(RECIPES)]
    data = bytearray(media.clip(recipe).read_bytes())
    for _ in range(chance.randint(1, 3)):
        kind = chance.choice(("flip", "flip", "cut", "swap", "repeat", "zero", "noise"))
        here = chance.randrange(len(data))
        length = min(chance.choice((1, 4, 64, 1500)), max(1, len(data) - here))
        if kind == "flip":
            for _ in range(chance.choice((1, 8, 64))):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[max(1, here) :]
        elif kind == "swap":  # parts of the size of packets
            there = chance.randrange(len(data))
            first, second = bytes(data[here : here + length]), bytes(data[there : there + length])
            data[here : here + length], data[there : there + length] = second, first
        elif kind == "repeat":
            data[here:here] = data[here : here + length]
        elif kind == "zero":
            data[here : here + length] = bytes(length)
        else:
            data[here : here + length] = chance.randbytes(length)
    return bytes(data), recipe.suffix


def read_file(path: Path) -> int:
    """Read a file as a run does, and convert every eighth frame. Returns the number of frames."""
    count = 0
    with open_source(SourceSpec("fuzz", "video", (str(path),))) as source:
        for frame in source.frames():
            if count % 8 == 0:
                size = frame.image.size
                pool = BufferPool(INPUT, (1,), 1, {})
                (slot,) = pool.lend(1).slots
                frame.image.write_into(slot, letterbox(size, INPUT, "center", (114, 114, 114)))
            count += 1
            if count > 10_000:
                raise RuntimeError("more frames than the file can hold")
    return count


def child(numbers: Sequence[int]) -> None:
    """Read mutated files one after the other, and print a line before and after each."""
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            print(f"begin {number}", flush=True)
            data, suffix = mutate(number)
            path = Path(folder) / f"{number}{suffix}"
            path.write_bytes(data)
            try:
                print(f"frames {read_file(path)}", flush=True)
            except StreamError as error:
                word = "refused" if "\n" not in str(error) else "failed an error of several lines"
                print(word, flush=True)
            except Exception as error:  # noqa: BLE001 - any exception is a finding
                print(f"failed {number}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
            path.unlink()
    print(f"rss {peak_rss_bytes()}", flush=True)


def watch(numbers: Sequence[int], outcome: Outcome) -> None:
    """Run a child process, and continue after a file that ended it."""
    left = list(numbers)
    while left:
        words = [sys.executable, "-m", "tests.support.fuzz", "--child", ",".join(map(str, left))]
        current = -1
        with subprocess.Popen(words, cwd=media.ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            while True:
                if not select.select([process.stdout], [], [], SILENCE_S)[0]:
                    outcome.hung.append(current)
                    process.kill()
                    break
                line = process.stdout.readline()
                if not line:
                    break
                current = _count(line, current, outcome)
            status = process.wait()
        done = left.index(current) + 1 if current in left else 0
        if status == 0:
            return
        if not outcome.hung or outcome.hung[-1] != current:
            outcome.crashed.append(current)
        left = left[max(1, done) :]


def _count(line: str, current: int, outcome: Outcome) -> int:
    kind, _, rest = line.strip().partition(" ")
    if kind == "begin":
        outcome.files += 1
        return int(rest)
    if kind == "frames":
        outcome.frames += int(rest)
    elif kind == "refused":
        outcome.refused += 1
    elif kind == "failed":
        outcome.failed.append(rest)
    elif kind == "rss":
        outcome.peak_rss_bytes = max(outcome.peak_rss_bytes, int(rest))
    return current


def fuzz(first: int, count: int) -> Outcome:
    """Read ``count`` mutated files, numbered from ``first``."""
    outcome = Outcome()
    numbers = range(first, first + count)
    for recipe in RECIPES:
        media.clip(recipe)  # created once, here, not by each child process
    for start in range(0, count, PER_CHILD):
        watch(numbers[start : start + PER_CHILD], outcome)
    return outcome


def main() -> int:
    """Read the command line, fuzz, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first file")
    parser.add_argument("--only", type=int, help="write this one file into the current folder")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child([int(number) for number in args.child.split(",")])
        return 0
    if args.only is not None:
        data, suffix = mutate(args.only)
        Path(f"fuzz-{args.only}{suffix}").write_bytes(data)
        return 0
    outcome = fuzz(args.seed, args.count)
    print(outcome)
    return 1 if outcome.crashed or outcome.hung or outcome.failed or outcome.peak_rss_bytes > MAX_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
