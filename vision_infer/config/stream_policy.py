"""What is inferred of one stream and which detections count.

``run``, the Python interface and ``serve`` share these settings. A field that is added here becomes an option of
``vision-infer run``, a field of each stream in the configuration of ``serve``, and ``AddStream.policy`` in the pipeline.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from vision_infer.config.settings_base import SettingsBase

Confidence = Annotated[float, Field(ge=0, le=1)]
Label = Annotated[str, Field(min_length=1)]


MAX_TILES = 64
"""The maximum number of tiles of a frame."""
_TILES = re.compile(
    r"(?:(?P<rows>\d{1,2})x(?P<columns>\d{1,2})|(?P<size>\d{1,5}))(?:,overlap=(?P<overlap>[\d.]{1,6}))?(?P<whole>,whole)?"
)


class TileSettings(SettingsBase):
    """How each frame is cut into tiles: `size`, or `rows` and `columns`. On the command line: SIZE or ROWSxCOLUMNS, then
    optionally ,overlap=0.2 and ,whole."""

    size: int | None = Field(default=None, ge=32, le=8192, description="The width and height of a tile, in pixels.")
    rows: int | None = Field(default=None, ge=1, le=MAX_TILES, description="The number of rows of tiles.")
    columns: int | None = Field(default=None, ge=1, le=MAX_TILES, description="The number of columns of tiles.")
    overlap: float = Field(
        default=0.2,
        ge=0,
        le=0.5,
        description="The minimum part of a tile that its neighbor shows too. An object larger than that is cut.",
    )
    whole: bool = Field(default=False, description="Infer the whole frame as one more tile, for large objects.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, (str, int)):
            return value
        found = _TILES.fullmatch(str(value))
        if found is None:
            raise ValueError("is not SIZE or ROWSxCOLUMNS; write 640, 2x3, or 640,overlap=0.3,whole")
        given = {name: text for name, text in found.groupdict().items() if text and name != "whole"}
        return given | {"whole": bool(found["whole"])}

    @model_validator(mode="after")
    def _one_kind(self) -> TileSettings:
        rows, columns = self.rows, self.columns
        if (rows is None) != (columns is None) or (rows is None) == (self.size is None):
            raise ValueError("needs either size, or rows and columns")
        if rows is not None and columns is not None and not 2 <= rows * columns + self.whole <= MAX_TILES:
            raise ValueError(f"rows x columns must be 2 to {MAX_TILES} tiles, got {rows} x {columns}")
        return self


_REIDENTIFY = re.compile(
    r"(?P<threshold>[\d.]{1,6})(?:,timeout=(?P<timeout_s>[\d.]{1,8}))?(?:,(?P<across>across)(?:=(?P<group>[A-Za-z0-9._-]{1,64}))?)?"
)


class ReidentifySettings(SettingsBase):
    """How an object that comes back gets its identity again. On the command line: THRESHOLD, then optionally ,timeout=SECONDS
    and ,across or ,across=GROUP."""

    threshold: float = Field(
        default=0.2,
        gt=0,
        le=2,
        description="The cosine distance of two appearances below which they are of one object. It depends on the model.",
    )
    timeout_s: float = Field(
        default=300.0, ge=1, le=86_400, description="The time for which an object that is not seen is kept, in seconds."
    )
    across: bool | Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = Field(
        default=False,
        description="Whether objects are also found again in other cameras: in all cameras with `true`, or in those with the "
        "same name of a group. Only in a service of one process, not on a cluster.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            return value
        found = _REIDENTIFY.fullmatch(str(value))
        if found is None:
            raise ValueError("is not THRESHOLD; write 0.2, or 0.2,timeout=600,across")
        given: dict[str, Any] = {name: found[name] for name in ("threshold", "timeout_s") if found[name]}
        return given | {"across": found["group"] or bool(found["across"])}

    @property
    def group(self) -> str | None:
        """The group of cameras in which objects are found again; empty: all cameras without a group; None: this camera."""
        return self.across if isinstance(self.across, str) else "" if self.across else None


class HookSettings(SettingsBase):
    """A function that is called with each frame and its result. Written as MODULE:FUNCTION, or with these fields; on the command
    line: MODULE:FUNCTION, then optionally ,timeout_s=5 and ,process=true and ,on_error=drop."""

    call: str = Field(
        min_length=1,
        description="MODULE:FUNCTION, or the name of a hook that an installed package adds.",
    )
    timeout_s: float = Field(
        default=10.0, gt=0, le=3600, description="The maximum time of a call, in seconds. Then it counts as failed."
    )
    process: bool = Field(
        default=False,
        description="Call it in a process of the stream, which is killed and started again after the time limit or a crash.",
    )
    on_error: Literal["pass", "drop"] = Field(
        default="pass",
        description="What happens to a frame when the call fails. `pass`: the result is unchanged. `drop`: no output gets the "
        "result or the image.",
    )
    folder: Path | None = Field(
        default=None,
        validate_default=True,
        description="The folder that is searched for the module before the installed packages. Defaults to the folder of the "
        "configuration file, or the current folder.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        call, *options = value.split(",")
        pairs = [option.partition("=") for option in options]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError("is not MODULE:FUNCTION; options follow as ,process=true")
        return {"call": call, **{name.strip(): text.strip() for name, _, text in pairs}}

    @field_validator("folder")
    @classmethod
    def _of_the_file(cls, folder: Path | None, info: ValidationInfo) -> Path | None:
        return folder or (info.context or {}).get("folder")


def _several(value: Any) -> Any:
    """Return the hooks of a stream as a list: one may be written alone."""
    if value is None:
        return ()
    return [value] if isinstance(value, (str, dict, HookSettings)) else value


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
    tiles: TileSettings | None = Field(
        default=None,
        description="Cut each frame into tiles, and infer each as an image. This finds small objects in large images, and costs "
        "one inference per tile.",
    )
    crop_region: bool = Field(
        default=False,
        description="Infer only the rectangle around the `look` polygons of `region`, with a margin, so that it fills the "
        "model's input.",
    )
    track: bool = Field(
        default=False, description="Track and number objects across frames (ByteTrack). Only confirmed tracks are reported."
    )
    tracker: Literal["bytetrack", "bytetrack-cmc"] = Field(
        default="bytetrack",
        description="The tracker. `bytetrack-cmc` also compensates the motion of a camera that shakes or pans.",
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
    reidentify: ReidentifySettings | None = Field(
        default=None,
        description="Give an object that comes back the same `identity`, by its appearance. Needs `track` and a `secondary` "
        "model for embeddings, which are then not in the results.",
    )
    hook: Annotated[
        tuple[HookSettings, ...],
        BeforeValidator(_several, json_schema_input_type=str | HookSettings | list[str | HookSettings] | None),
    ] = Field(
        default=(),
        max_length=16,
        description="Functions that are called with each frame and its result, in this order, and may change or drop the result.",
    )

    @property
    def tracked(self) -> bool:
        """Whether objects are numbered."""
        return self.track

    @property
    def compared(self) -> Literal["per_class", "similar", "agnostic"]:
        """Which boxes NMS and tracking compare."""
        return self.nms or ("similar" if self.tracked else "per_class")


def check_reidentify(policy: StreamPolicy) -> None:
    """Refuse re-identification without what it needs.

    Raises:
        ValueError: There is no tracking, or no secondary model.
    """
    if policy.reidentify is not None:
        if policy.secondary is None:
            raise ValueError("reidentify: needs secondary, a model for embeddings, which compares appearances")
        if not policy.tracked:
            raise ValueError("reidentify: needs track, because an identity belongs to a track")
