"""What is inferred of one stream and which detections count.

``run``, the Python interface and ``serve`` share these settings. A field that is added here becomes an option of
``vision-infer run``, a field of each stream in the configuration of ``serve``, and ``AddStream.policy`` in the pipeline.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vision_infer.config.settings_base import SettingsBase

Confidence = Annotated[float, Field(ge=0, le=1)]
Label = Annotated[str, Field(min_length=1)]


class StreamPolicy(SettingsBase):
    """The settings that concern one stream, whether it is a file or a camera."""

    fps: float | None = Field(
        default=None, gt=0, le=1000, description="The maximum inferred frames per second. Defaults to all frames."
    )
    keyframes_only: bool = Field(default=False, description="Decode and infer key frames only, which saves most of the decoding.")
    decode: Literal["auto", "cpu", "nvdec"] = Field(
        default="auto",
        description="Where video is decoded. `nvdec` uses an NVIDIA GPU and falls back to the CPU with a warning; "
        "`auto` uses the GPU if inference runs on it, and the CPU otherwise.",
    )
    gate: Literal["motion"] | None = Field(
        default=None,
        description="The gate. `motion` skips frames without motion, and their results repeat the last detections.",
    )
    gate_heartbeat_s: float = Field(
        default=5.0, gt=0, le=3600, description="With `gate`, the maximum time between two inferred frames, in seconds."
    )
    confidence: float | None = Field(
        default=None, ge=0, le=1, description="The minimum confidence of a detection. Defaults to the model card's value."
    )
    per_class: dict[Label, Confidence] = Field(
        default_factory=dict, description="The minimum confidence of individual labels. Takes precedence over `confidence`."
    )
    iou: float | None = Field(
        default=None, gt=0, le=1, description="The IoU threshold for NMS. Defaults to the model card's value."
    )
    nms: Literal["per_class", "similar", "agnostic"] | None = Field(
        default=None,
        description="Which boxes NMS and tracking compare. `per_class`: those of one class. `similar`: those of similar "
        "classes, such as car and truck, so that an object has one box and one track, whose label is decided by vote. "
        "`agnostic`: all, also those of a rider and the motorcycle. Defaults to `similar` with tracking and `per_class` without.",
    )
    classes: tuple[Label, ...] | None = Field(default=None, description="The labels to detect. Defaults to all labels.")
    min_size: float = Field(default=0.0, ge=0, le=100_000, description="The minimum width and height of a box, in pixels.")
    track: bool = Field(
        default=False, description="Track and number objects across frames (ByteTrack). Only confirmed tracks are reported."
    )
    track_floor: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="With tracking, the minimum score of a box that extends a track. Boxes below `confidence` are not reported.",
    )
    secondary: str | None = Field(
        default=None, min_length=1, description="A model that runs on each detection, for classification or embeddings."
    )
    hook: str | None = Field(
        default=None, min_length=1, description="MODULE:FUNCTION that is called with each result, and may change or drop it."
    )

    @property
    def tracked(self) -> bool:
        """Whether objects are numbered."""
        return self.track

    @property
    def compared(self) -> Literal["per_class", "similar", "agnostic"]:
        """Which boxes NMS and tracking compare."""
        return self.nms or ("similar" if self.tracked else "per_class")
