"""Devices that were not measured, with published figures and their sources."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from vision_infer.config.settings_base import SettingsBase
from vision_infer.config.validation_errors import SettingsError, ValidationProblem, problems_of
from vision_infer.config.yaml_lines import YamlError, compose, line_of, plain, read_text
from vision_infer.core.errors import UsageError

FILE = "devices.yaml"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}$")]


Checked = TypeVar("Checked", bound=BaseModel)


class FigureSource(SettingsBase):
    """The source of a statement."""

    what: str = Field(min_length=1)
    source: str = Field(pattern=r"^https://")
    read: datetime.date


class PublishedFigure(SettingsBase):
    """A published throughput."""

    what: Literal["decode", "infer"]
    streams: int | None = Field(default=None, ge=1)
    fps: float | None = Field(default=None, gt=0)
    codec: str | None = Field(default=None, description="The codec. null: not stated by the source.")
    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    model: str | None = None
    note: str = ""
    source: str = Field(pattern=r"^https://")
    read: datetime.date


class PublishedDevice(SettingsBase):
    """A device."""

    name: Name
    kind: Literal["cpu", "gpu"]
    price_per_hour: float | None = Field(default=None, gt=0, description="The price in the user's currency. null: unknown.")
    memory_gb: float | None = Field(default=None, gt=0)
    decoders: int | None = Field(default=None, ge=0, description="The number of video decoding engines.")
    codecs: tuple[str, ...] = ()
    published: tuple[PublishedFigure, ...] = ()
    sources: tuple[FigureSource, ...] = ()


class DeviceFile(SettingsBase):
    """``devices.yaml``."""

    devices: tuple[PublishedDevice, ...] = ()


def devices_file() -> Path:
    """Return the file of the package: in an installed wheel, or at the root of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "devices" / FILE
    return inside if inside.is_file() else package.parent / "capacity" / FILE


def read_devices(path: Path | None = None) -> tuple[PublishedDevice, ...]:
    """Read the devices of a file; None for the file of the package.

    Raises:
        UsageError: The file cannot be read or is invalid; names the line.
    """
    path = path or devices_file()
    devices = read_checked(path, DeviceFile, "See capacity/README.md for the fields.").devices
    names = [device.name for device in devices]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: two devices are named {twice}", "Give each device a unique name.")
    return devices


def read_checked(path: Path, model: type[Checked], hint: str) -> Checked:
    """Read and validate a YAML file.

    Raises:
        UsageError: The file cannot be read.
        SettingsError: The file is invalid; lists all problems with their lines.
    """
    text = read_text(path)
    try:
        node = compose(text)
        data: Any = {} if node is None else plain(node)
    except YamlError as error:
        raise UsageError(f"{path}{'' if error.line is None else f':{error.line}'}: {error.message}", hint) from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: contains no fields", hint)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = [
            ValidationProblem(problem.location, problem.message, f"{path}:{line_of(node, problem.location)}")
            for problem in problems_of(error, model)
        ]
        raise SettingsError(found, hint) from None
