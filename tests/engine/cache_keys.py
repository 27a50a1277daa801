"""Keys of engines that do not exist."""

from __future__ import annotations

from vision_infer.engine.store.engine_key import EngineKey

KEY = EngineKey("tiny", "a" * 64, "openvino-cpu-fp32", "f32", "2026.1.0", "A Processor (avx2)", 1)


def no_news(text: str) -> None:
    """Fail: no message is expected."""
    raise AssertionError(text)
