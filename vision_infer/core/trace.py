"""The times at which a frame passed each stage."""

from __future__ import annotations

from dataclasses import dataclass

STAGES = ("decode", "queue", "preprocess", "inference", "postprocess", "write")
"""The stages, in the order in which a frame passes them; ``queue`` is all waiting between them."""


@dataclass(slots=True)
class Trace:
    """Monotonic times, in nanoseconds, at which a frame passed each stage; 0 until then.

    It is the only mutable value of ``core``: the thread that owns the frame writes it. Decoding begins when the decoder was
    asked for the frame (recorded) or its packet arrived (live).
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
    """The time at which the result is complete: tracked, ready for the sinks."""
    secondary_start_ns: int = 0
    """The time at which the crops of the frame went to the secondary model; 0 if there is none."""
    secondary_end_ns: int = 0
    """The time at which the last of them returned."""
    captured_ns: int = 0
    """The capture time, of a live stream; 0 for a recorded one. ``clock`` is its source."""
    batch: int = 0
    """The number of frames in its batch; 0 before inference."""
    clock: str = ""
    """The source of ``captured_ns``: ``arrival`` (of its packet), ``camera`` (the clock of the camera) or ``playout`` (the time
    at
    which a file in real time was due); empty for a recorded stream."""

    def latency(self) -> Latency:
        """Return the latency of a frame whose result was emitted. Waiting is the remainder, so that all add up to the total."""
        decode = self.decode_end_ns - self.decode_start_ns
        preprocess = self.preprocess_end_ns - self.preprocess_start_ns
        inference = self.inference_end_ns - self.inference_start_ns
        secondary = self.secondary_end_ns - self.secondary_start_ns
        postprocess = self.select_end_ns - self.select_start_ns + self.emitted_ns - self.track_start_ns - secondary
        total = self.emitted_ns - self.decode_start_ns
        queue = total - decode - preprocess - inference - secondary - postprocess
        return Latency(decode, queue, preprocess, inference, postprocess, total, secondary)


# Not frozen: creation would cost three times as much, and there is one for every frame.
@dataclass(slots=True)
class Latency:
    """The time that a frame spent in each stage, nanoseconds; the stages add up to the total."""

    decode_ns: int
    queue_ns: int
    """All waiting: for a slot in a batch, for the other frames of the batch, for earlier frames of the stream."""
    preprocess_ns: int
    inference_ns: int
    postprocess_ns: int
    total_ns: int
    secondary_ns: int = 0
    """The secondary model, for all crops of the frame: waiting, cropping, inference; 0 if there is none."""
