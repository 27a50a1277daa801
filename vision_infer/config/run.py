"""The settings of ``vision-infer run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from vision_infer.config.actions.sample import check_sample
from vision_infer.config.settings_base import InferenceSettings
from vision_infer.config.stream_policy import StreamPolicy, check_reidentify
from vision_infer.config.validation_errors import SettingsError, problems_of

DEFAULT_MODEL = "nanodet-416"


class RunSettings(StreamPolicy, InferenceSettings):
    """The settings of a run. None leaves the choice to the model card or to the machine."""

    sources: tuple[str, ...] = Field(
        min_length=1,
        description="Videos, images, folders, patterns, URLs, @LIST (a file of sources), - (standard input). "
        "Or cameras: rtsp://…, /dev/video0 or 0, and the test pattern test://.",
    )
    recursive: bool = Field(default=False, description="Search folders recursively.")
    track_index: int = Field(default=0, ge=0, description="The index of the video track in each file.")
    start: float = Field(default=0.0, ge=0, description="Start of the range to read, in seconds. Exact to the frame.")
    end: float | None = Field(default=None, gt=0, description="End of the range to read, in seconds. Defaults to the end.")
    live: bool = Field(
        default=False,
        description="Read http:// URLs and video files in real time, as cameras: infer the newest frame, and drop late ones. "
        "Other URLs of cameras are always read like this.",
    )
    duration: float | None = Field(
        default=None, gt=0, description="End after this time, in seconds. Cameras only. By default, cameras run until Ctrl-C."
    )
    max_pixels: int = Field(
        default=100_000_000, ge=1, description="Reject images with more pixels. Cameras: at most 36 megapixels."
    )
    model: str = Field(default=DEFAULT_MODEL, min_length=1, description="The name of a model, or a deployment graph (.onnx).")
    every: int = Field(default=1, ge=1, description="Infer every N-th frame.")
    region: Path | None = Field(default=None, description="A YAML file of polygons in which detections count or not.")
    zones: Path | None = Field(
        default=None, description="A YAML file of zones and lines in which objects are counted. Enables `track`."
    )
    counts: Path | None = Field(
        default=None, description="With `zones`, write the counts of each interval to this CSV file, at the end of the run."
    )
    counts_interval_s: float = Field(
        default=60.0, ge=1, le=86_400, description="The duration of an interval of `counts`, in seconds."
    )
    top: int = Field(default=5, ge=1, le=1000, description="For classification models: the number of top classes to report.")
    out: tuple[str, ...] = Field(
        default=(),
        description="FILE.jsonl, .csv, .parquet and .json (COCO) take all sources; .txt (MOT), .xml (CVAT for video) and .mp4 "
        "(annotated) take one; DIR/ gets a set of files for each source; - writes rows to standard output. Repeatable.",
    )
    formats: tuple[str, ...] | None = Field(
        default=None,
        description="The formats written to DIR/: the file formats, and the datasets yolo, coco, voc, cvat, label-studio, "
        "fiftyone and datumaro, a folder of images and labels each. Defaults to jsonl,mp4.",
    )
    crops: Path | None = Field(default=None, description="Save each detection as a cropped image in this folder.")
    preview_fps: float | None = Field(
        default=None, gt=0, description="The frame rate of annotated video. Defaults to the source's."
    )
    preview_size: int | None = Field(default=None, ge=16, description="The height of annotated video. Defaults to the source's.")
    draw_labels: Literal["scores", "names", "none"] | None = Field(
        default=None,
        description="The text at the boxes of annotated video and images: `scores` (labels with scores), `names` or `none`. "
        "Defaults to scores.",
    )
    sample: str | None = Field(
        default=None,
        description="The frames of a dataset (`formats`: yolo, coco, …): `uncertain` (the least certain detection, at most one "
        "frame per second), `diverse` (images or embeddings that are far apart), `disagree` (another model or engine differs "
        "most, at most one frame per second) or `every:N`. Defaults to all inferred frames.",
    )
    sample_model: str | None = Field(
        default=None, min_length=1, description="With `sample` disagree, the other model. Defaults to `model`."
    )
    sample_engine: str | None = Field(
        default=None, min_length=1, description="With `sample` disagree, the other engine. Defaults to auto."
    )
    samples: int | None = Field(
        default=None,
        ge=1,
        le=2000,
        description="With `sample`, the maximum number of frames. Defaults to 100, and for `every:N` to no maximum.",
    )
    rotate_mb: float | None = Field(default=None, gt=0, description="Start a new JSONL file after this size, in megabytes.")
    telemetry: Path | None = Field(
        default=None,
        description="Send traces of frames by OTLP, as the block `telemetry` of this YAML file says. It can be that of `serve`.",
    )
    overwrite: bool = Field(default=False, description="Overwrite existing files.")
    resume: bool = Field(default=False, description="Resume an interrupted run that had the same options.")

    @property
    def tracked(self) -> bool:
        """Whether objects are numbered."""
        return self.track or self.zones is not None

    @model_validator(mode="after")
    def _needed_settings(self) -> RunSettings:
        if self.crop_region and self.region is None:
            raise ValueError("crop_region: needs region, a file with look polygons")
        check_reidentify(self)
        return self

    @model_validator(mode="after")
    def _counts_of_zones(self) -> RunSettings:
        if self.counts is not None and self.zones is None:
            raise ValueError("counts: needs zones, a file of zones and lines")
        if self.counts is not None and self.resume:
            raise ValueError("counts: a resumed run has no counts of the time before")
        return self

    _sample = field_validator("sample")(check_sample)

    @model_validator(mode="after")
    def _samples_of_a_choice(self) -> RunSettings:
        if self.samples is not None and self.sample is None:
            raise ValueError("samples: needs sample, the choice of the frames")
        if (self.sample == "disagree") != (self.sample_model is not None or self.sample_engine is not None):
            raise ValueError("sample: disagree needs sample_model or sample_engine, and these need sample: disagree")
        return self

    @field_validator("end")
    @classmethod
    def _end_after_start(cls, end: float | None, info: ValidationInfo) -> float | None:
        start = info.data.get("start", 0.0)
        if end is not None and end <= start:
            raise ValueError(f"must be after the start, {start} s")
        return end


def run_settings(**values: Any) -> RunSettings:
    """Validate settings.

    Raises:
        SettingsError: The settings are invalid; lists all problems.
    """
    return validated(RunSettings, values)


def validated(model: type[RunSettings], values: dict[str, Any]) -> RunSettings:
    """Validate values as settings of this class.

    Raises:
        SettingsError: The settings are invalid; lists all problems.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise SettingsError(problems_of(error, model), "") from error
