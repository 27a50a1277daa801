"""Where a frame's time went."""

from __future__ import annotations

from dataclasses import dataclass

STAGES = ("decode", "queue", "preprocess", "inference", "postprocess", "write")
"""the stages of the account, in the order in which a frame passes them (queue stands for all waiting between them)"""


@dataclass(slots=True)
class Trace:
    """Monotonic times, in nanoseconds, at which a frame passed each stage; 0 until then.

    It is written while the frame travels (the one value of ``core`` that is), by one thread at a time: whoever holds the
    frame. Decoding begins when the decoder was asked for the frame (recorded) or its packet arrived (live).
    """

    decode_start_ns: int = 0
    decode_end_ns: int = 0
    preprocess_start_ns: int = 0
    preprocess_end_ns: int = 0
    inference_start_ns: int = 0
    inference_end_ns: int = 0
    select_start_ns: int = 0
    select_end_ns: int = 0
    track_start_ns: int = 0
    emitted_ns: int = 0
    """the result is complete: tracked, ready for the sinks"""
    secondary_start_ns: int = 0
    """the frame's crops were handed to the second network; 0 where there is none"""
    secondary_end_ns: int = 0
    """the last of them came back"""
    captured_ns: int = 0
    """when the picture was taken, of a live stream; 0 for a recorded one. ``clock`` says how it is known"""
    batch: int = 0
    """frames in the batch in which it was inferred; 0 until then"""
    clock: str = ""
    """of ``captured_ns``: ``arrival`` (of its packet), ``camera`` (the camera's own clock) or ``playout`` (when its turn came, of
    what is played in real time); empty for a recorded stream"""

    def latency(self) -> Latency:
        """The account of a frame whose result was emitted. Waiting is what no stage explains, so that all add up to the total."""
        decode = self.decode_end_ns - self.decode_start_ns
        preprocess = self.preprocess_end_ns - self.preprocess_start_ns
        inference = self.inference_end_ns - self.inference_start_ns
        secondary = self.secondary_end_ns - self.secondary_start_ns
        postprocess = self.select_end_ns - self.select_start_ns + self.emitted_ns - self.track_start_ns - secondary
        total = self.emitted_ns - self.decode_start_ns
        queue = total - decode - preprocess - inference - secondary - postprocess
        return Latency(decode, queue, preprocess, inference, postprocess, total, secondary)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a frame spent in each stage; the stages add up to the total."""

    decode_ns: int
    queue_ns: int
    """all waiting: for a place in a batch, for the batch's other frames, for earlier frames of the stream"""
    preprocess_ns: int
    inference_ns: int
    postprocess_ns: int
    total_ns: int
    secondary_ns: int = 0
    """the second network, for all crops of the frame: waiting for it, cutting out, inference; 0 where there is none"""
