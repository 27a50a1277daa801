"""The file of ``--region``: polygons in which detections count, and polygons in which they do not.

units: relative            # or pixels (the default), of the source picture
anchor: bottom_center      # where a box stands; or center
look:
  - [[0.1, 0.4], [0.9, 0.4], [0.9, 1.0], [0.1, 1.0]]
ignore:
  - [[0.4, 0.4], [0.6, 0.4], [0.6, 0.6], [0.4, 0.6]]
streams:                   # a stream that is named here takes this instead of what stands above
  gate:
    look: [[[0, 300], [640, 300], [640, 480], [0, 480]]]
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vision_infer.config.yaml_lines import LARGEST_FILE, line_of
from vision_infer.core.errors import UsageError

Coordinate = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Polygon = Annotated[tuple[tuple[Coordinate, Coordinate], ...], Field(min_length=3, max_length=10_000)]
"""corners x, y in order; the last is joined to the first"""


class Region(BaseModel):
    """Where detections of a stream count: inside a polygon of ``look``, if there is any, and outside those of ``ignore``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    units: Literal["pixels", "relative"] = Field(default="pixels", description="pixels of the source, or parts of its sides, 0–1")
    anchor: Literal["bottom_center", "center"] = Field(default="bottom_center", description="the point of a box that counts")
    look: tuple[Polygon, ...] = Field(default=(), description="polygons; where there are any, only what stands in one counts")
    ignore: tuple[Polygon, ...] = Field(default=(), description="polygons; what stands in one does not count")

    @model_validator(mode="after")
    def _plausible(self) -> Region:
        for name, polygons in (("look", self.look), ("ignore", self.ignore)):
            for number, polygon in enumerate(polygons):
                where = f"{name}.{number}"
                inside = all(0 <= value <= 1 for point in polygon for value in point)
                if self.units == "relative" and not inside:
                    raise ValueError(f"{where}: relative points are within 0 and 1; for pixels write units: pixels")
                if self.units == "pixels" and inside:
                    raise ValueError(f"{where}: is not larger than a pixel; for parts of the picture write units: relative")
                if _flat(polygon):
                    raise ValueError(f"{where}: all its points are on a line")
        return self

    @property
    def everywhere(self) -> bool:
        """True when nothing is left out."""
        return not self.look and not self.ignore


class RegionFile(Region):
    """The region of all streams, and those of single ones."""

    streams: dict[str, Region] = Field(default_factory=dict, description="by the name of the stream")

    def of(self, stream: str) -> Region:
        """The region of a stream: its own, or that of all."""
        return self.streams.get(stream, self)


def read_region(path: Path, streams: Iterable[str]) -> RegionFile:
    """Read the file.

    Args:
        path: YAML.
        streams: the names of the run's streams; a file that concerns none of them is a mistake.

    Raises:
        UsageError: it cannot be read, or is wrong; names the file, and the field and line where they are known.
    """
    import yaml

    where = f"--region {path}"
    try:
        text = _read(path)
        node = yaml.compose(text, yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error.strerror or error}", "check the name and its permissions") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" line {mark.line + 1}:"
        raise UsageError(f"{where}:{line} is no YAML: {getattr(error, 'problem', None) or error}", _EXAMPLE) from error
    except (ValueError, RecursionError) as error:  # no text, or brackets without an end
        raise UsageError(f"{where}: is no YAML: {error}", _EXAMPLE) from error
    if not isinstance(data, dict):
        raise UsageError(f"{where}: holds no look, ignore or streams", _EXAMPLE)
    try:
        region = RegionFile.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{where}: {_first_mistake(error, node)}", "see docs/how-to/filter-and-track.md") from error
    twice = _given_twice(node)
    if twice is not None:
        raise UsageError(f"{where}: line {twice.start_mark.line + 1}: field '{twice.value}' is there twice", "join their lists")
    _check_use(region, where, list(streams))
    return region


_EXAMPLE = "write look: [[[0, 200], [640, 200], [640, 480]]]"


def _read(path: Path) -> str:
    with open(path, "rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE // 1_000_000} MB")
    return data.decode("utf-8-sig")


def _first_mistake(error: ValidationError, node: Any) -> str:
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    place: list[str | int] = list(first["loc"])
    if first["type"] == "value_error":  # of a whole region: the message begins with the polygon
        name, _, message = message.partition(": ")
        place += [int(part) if part.isdecimal() else part for part in name.split(".")]
    field = ".".join(map(str, place))
    return f"line {line_of(node, place)}: field '{field}': {message}"


def _given_twice(node: Any) -> Any:
    """The first key that its mapping holds already, of which YAML would silently take the last; None where there is none."""
    keys: set[str] = set()
    for key, value in node.value:
        if key.value in keys:
            return key
        keys.add(key.value)
        if key.value == "streams":
            below = _given_twice(value) or next(filter(None, (_given_twice(one) for _, one in value.value)), None)
            if below is not None:
                return below
    return None


def _check_use(region: RegionFile, where: str, streams: list[str]) -> None:
    if region.everywhere and all(one.everywhere for one in region.streams.values()):
        raise UsageError(f"{where}: holds no polygon", _EXAMPLE)
    if region.everywhere and not any(name in region.streams for name in streams):
        name = next(iter(region.streams))
        near = difflib.get_close_matches(name, streams, 1, 0.5) or streams[:3]
        hint = f"there are {', '.join(near)}" if near else "give look or ignore for all pictures"
        raise UsageError(f"{where}: none of its streams is in this run, such as {name!r}", hint)


def _flat(polygon: tuple[tuple[float, float], ...]) -> bool:
    (x, y), *rest = polygon
    across, down = next(((a - x, b - y) for a, b in rest if (a, b) != (x, y)), (0.0, 0.0))
    return all(across * (b - y) == down * (a - x) for a, b in rest)
