"""The settings that choose and configure the engine, shared by ``run`` and ``serve``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vision_infer.config.settings_base import SettingsBase


class InferenceSettings(SettingsBase):
    """The engine and how it runs."""

    model_dir: Path | None = Field(default=None, description="Your own models. Defaults to $VISION_INFER_HOME/models.")
    engine: str = Field(default="auto", min_length=1, description="The engine, such as onnxruntime-cpu-fp32. auto: the fastest.")
    engine_dir: Path | None = Field(default=None, description="Engines and passports. Defaults to $VISION_INFER_HOME/engines.")
    device: str = Field(default="auto", min_length=1, description="auto, cpu or cuda:0. With cuda:0,cuda:1, GPUs alternate.")
    workers: int | None = Field(default=None, ge=1, le=256, description="Batches in flight. Defaults to all CPUs, or 2 on a GPU.")
    threads: int | None = Field(default=None, ge=1, le=256, description="CPU threads per batch. Defaults to 1.")
    batch: int | None = Field(default=None, ge=1, le=256, description="The maximum batch size. Defaults to 1, or 8 on a GPU.")
