"""Counts the GPU memory of decoders: a video is decoded on a GPU only if that has memory for it, and on the CPU otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size
from vision_infer.engine.engine import Engine, gpu_of
from vision_infer.engine.gpu.ledger import MemoryLedger, ledger_of, ledger_of_gpu
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.stream.source import Source, SourceSpec

_USUAL = Size(1920, 1080)
"""The assumed size of a video until it is open."""


def ledger_for(spec: SourceSpec, engines: Sequence[Engine]) -> MemoryLedger | None:
    """Return the ledger of the GPU that is to decode a source; None if it is decoded on the CPU, or CUDA cannot use that GPU."""
    if spec.kind == "images" or spec.decode == "cpu":
        return None
    gpu = (spec.gpu or 0) if spec.decode == "nvdec" else spec.gpu
    if gpu is None:
        return None
    devices = (getattr(engine, "device", None) for engine in engines if gpu_of(engine) == gpu)
    return next((ledger_of(device) for device in devices if device is not None), None) or ledger_of_gpu(gpu)


@contextmanager
def with_decoder(
    spec: SourceSpec, record: StreamRecord, ledger: MemoryLedger | None, open_it: Callable[[SourceSpec], Source]
) -> Iterator[Source]:
    """Open a source, and count the memory of its decoder while it is open.

    Args:
        record: The record of the stream: the size of its video, if it was open before, and whether frames were decoded.
        ledger: The memory of the GPU that is to decode it; None: it is not counted.
        open_it: Opens the source.
    """
    if ledger is None:
        with open_it(spec) as source:
            yield source
        return
    from vision_infer.stream.nvdec import decoder_bytes  # imports av

    size = (record.info.size if record.info is not None else None) or _USUAL
    expected, before = decoder_bytes(size.width, size.height, False), record.decoded
    opened: list[Source] = []

    def measure() -> tuple[int, bool]:
        if not opened or record.decoded == before:  # FFmpeg allocates when the first frame is decoded
            return expected, False
        return opened[0].info.decoder_bytes or 0, True

    entry = None
    try:
        entry = ledger.add("decoder", expected, "its decoder", measure)
    except EngineError as error:  # no memory, or the GPU has failed
        spec = replace(spec, no_gpu=error.message)
    try:
        with open_it(spec) as source:
            opened.append(source)
            yield source
    finally:
        if entry is not None:
            ledger.remove(entry)
