"""Keys of engines that were never built."""

from __future__ import annotations

from vision_infer.engine.store.engine_key import EngineKey

KEY = EngineKey("tiny", "a" * 64, "openvino-cpu-fp32", "f32", "2026.1.0", "A Processor (avx2)", 1)


def no_news(text: str) -> None:
    """What nothing may be said to."""
    raise AssertionError(text)
