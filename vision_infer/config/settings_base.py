"""The base class of all settings, and the settings of inference that ``run`` and ``serve`` share."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator


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
        default="auto", min_length=1, description="The devices: auto, cpu, cuda:0, several such as cuda:0,cuda:1, or all GPUs."
    )
    workers: int | None = Field(
        default=None, ge=1, le=256, description="Batches in flight. Defaults to CPUs / threads, or 2 on a GPU."
    )
    threads: int | None = Field(default=None, ge=1, le=256, description="CPU threads per batch. Defaults to 1.")
    batch: int | None = Field(default=None, ge=1, le=256, description="The maximum batch size. Defaults to 1, or 8 on a GPU.")

    @field_validator("device")
    @classmethod
    def _known_devices(cls, device: str) -> str:
        if device in ("auto", "all"):
            return device
        names: list[str] = []
        for name in (name.strip() for name in device.split(",")):
            match = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", name)
            if match is None:
                raise ValueError(f"unknown device {name!r}; use auto, all, cpu, cuda:N, or several such as cuda:0,cuda:1")
            names.append("cpu" if name == "cpu" else f"cuda:{int(match[1] or 0)}")
            if names.count(names[-1]) > 1:
                raise ValueError(f"{names[-1]} is given twice")
        return ",".join(names)
