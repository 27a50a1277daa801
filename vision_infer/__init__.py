"""Real-time object detection for cameras and videos, with the age of every result and a reason for every dropped frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vision_infer.core.detections import Detection as Detection
    from vision_infer.core.detections import Detections as Detections
    from vision_infer.core.result import Result as Result
    from vision_infer.pipeline.hooks.frame import HookFrame as HookFrame
    from vision_infer.pipeline.runs.api import Detector as Detector
    from vision_infer.pipeline.runs.api import Pipeline as Pipeline

__version__ = "0.1.0"
__all__ = ["Detection", "Detections", "Detector", "HookFrame", "Pipeline", "Result", "__version__"]


def __getattr__(name: str) -> Any:
    # Heavy libraries are imported when first used, not by `import vision_infer`.
    if name in __all__:
        from vision_infer.pipeline.runs import api

        return getattr(api, name)
    raise AttributeError(f"module 'vision_infer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
