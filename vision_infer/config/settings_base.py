"""The base class of all settings, and the settings of inference that ``run`` and ``serve`` share."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class SettingsBase(BaseModel):
    """Settings are checked once and do not change. Errors never repeat the input, which may contain a password."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


class InferenceSettings(SettingsBase):
    """The engine and how it runs."""

    model_dir: Path | None = Field(default=None, description="Your own models. Defaults to $VISION_INFER_HOME/models.")
    engine: str = Field(default="auto", min_length=1, description="The engine, such as onnxruntime-cpu-fp32. auto: the fastest.")
    engine_dir: Path | None = Field(default=None, description="Engines and passports. Defaults to $VISION_INFER_HOME/engines.")
    device: str = Field(
        default="auto", min_length=1, description="The device: auto, cpu or cuda:0. With cuda:0,cuda:1, GPUs alternate."
    )
    workers: int | None = Field(
        default=None, ge=1, le=256, description="Batches in flight. Defaults to CPUs / threads, or 2 on a GPU."
    )
    threads: int | None = Field(default=None, ge=1, le=256, description="CPU threads per batch. Defaults to 1.")
    batch: int | None = Field(default=None, ge=1, le=256, description="The maximum batch size. Defaults to 1, or 8 on a GPU.")
