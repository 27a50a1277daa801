"""The file of ``--region``: polygons inside or outside which detections count.

units: relative            # or pixels (the default), of the source image
anchor: bottom_center      # the point of the box that counts; or center
look:
  - [[0.1, 0.4], [0.9, 0.4], [0.9, 1.0], [0.1, 1.0]]
ignore:
  - [[0.4, 0.4], [0.6, 0.4], [0.6, 0.6], [0.4, 0.6]]
streams:                   # settings of single streams, which replace those above
  gate:
    look: [[[0, 300], [640, 300], [640, 480], [0, 480]]]
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vision_infer.config.validation_errors import problems_of
from vision_infer.config.yaml_lines import YamlError, compose, line_of, plain, read_text
from vision_infer.core.errors import UsageError

Coordinate = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Polygon = Annotated[tuple[tuple[Coordinate, Coordinate], ...], Field(min_length=3, max_length=10_000)]
"""The corners x, y in order; the last is connected to the first."""


class Region(BaseModel):
    """Where detections of a stream count: inside a polygon of ``look``, if there are any, and outside all of ``ignore``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    units: Literal["pixels", "relative"] = Field(default="pixels", description="Pixels of the source, or fractions of its size.")
    anchor: Literal["bottom_center", "center"] = Field(default="bottom_center", description="The point of a box that counts.")
    look: tuple[Polygon, ...] = Field(default=(), description="Polygons. If there are any, only detections inside one count.")
    ignore: tuple[Polygon, ...] = Field(default=(), description="Polygons. Detections inside one of them do not count.")

    @model_validator(mode="after")
    def _plausible(self) -> Region:
        for name, polygons in (("look", self.look), ("ignore", self.ignore)):
            for number, polygon in enumerate(polygons):
                where = f"{name}.{number}"
                inside = all(0 <= value <= 1 for point in polygon for value in point)
                if self.units == "relative" and not inside:
                    raise ValueError(f"{where}: relative points must be between 0 and 1; for pixels write units: pixels")
                if self.units == "pixels" and inside:
                    raise ValueError(f"{where}: is not larger than a pixel; for fractions of the image write units: relative")
                if _flat(polygon):
                    raise ValueError(f"{where}: all points are on one line")
        return self

    @property
    def everywhere(self) -> bool:
        """Whether there are no polygons."""
        return not self.look and not self.ignore


class RegionFile(Region):
    """The region of all streams, and of individual streams."""

    streams: dict[str, Region] = Field(default_factory=dict, description="The regions of individual streams, by name.")

    def of(self, stream: str) -> Region:
        """Return the region of a stream: its own, or the common one."""
        return self.streams.get(stream, self)


ShapeFile = TypeVar("ShapeFile", bound=BaseModel)
_DOCS = {"region": "docs/how-to/filter-and-track.md", "zones": "docs/how-to/zones-and-lines.md"}


def read_shapes(option: str, path: Path, kind: type[ShapeFile], example: str) -> ShapeFile:
    """Read a YAML file.

    Args:
        option: The setting that names it, for messages.
        path: The file.
        kind: What it contains.
        example: The hint if it is empty or no valid YAML.

    Raises:
        UsageError: The file cannot be read or is invalid; names the file, and the field and line if known.
    """
    where = f"{option} {path}"
    try:
        node = compose(read_text(path))
        data = None if node is None else plain(node)
    except UsageError as error:
        raise UsageError(f"{option} {error.message}", error.hint) from None
    except YamlError as error:
        line = "" if error.line is None else f" line {error.line}:"
        raise UsageError(f"{where}:{line} {error.message}", example) from None
    if not isinstance(data, dict):
        raise UsageError(f"{where}: contains no settings", example)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = problems_of(error, kind)[0]
        text = f"{where}: line {line_of(node, first.location)}: field '{first.field}': {first.message}"
        raise UsageError(text, f"See {_DOCS[option]}.") from error


def check_streams(where: str, named: Collection[str], streams: Collection[str], alternative: str) -> None:
    """Refuse a file whose shapes are all for streams that are not in the run.

    Raises:
        UsageError: Names one of its streams, and those of the run.
    """
    if any(name in named for name in streams):
        return
    name = next(iter(named))
    near = difflib.get_close_matches(name, streams, 1, 0.5) or list(streams)[:3]
    hint = f"its streams are {', '.join(near)}" if near else alternative
    raise UsageError(f"{where}: none of its streams is in this run, for example {name!r}", hint)


def read_region(path: Path, streams: Iterable[str] | None) -> RegionFile:
    """Read a region file.

    Args:
        path: The YAML file.
        streams: The names of the run's streams. A file for none of them is an error. None: they are not known yet.

    Raises:
        UsageError: The file cannot be read or is invalid; names the file, and the field and line if known.
    """
    where = f"region {path}"
    region = read_shapes("region", path, RegionFile, _EXAMPLE)
    _check_use(region, where, None if streams is None else list(streams))
    return region


_EXAMPLE = "Write look: [[[0, 200], [640, 200], [640, 480]]]."


def _check_use(region: RegionFile, where: str, streams: list[str] | None) -> None:
    if region.everywhere and all(own.everywhere for own in region.streams.values()):
        raise UsageError(f"{where}: contains no polygon", _EXAMPLE)
    if streams is not None and region.everywhere:
        check_streams(where, region.streams, streams, "Set look or ignore for all images.")


def _flat(polygon: tuple[tuple[float, float], ...]) -> bool:
    (x, y), *rest = polygon
    across, down = next(((a - x, b - y) for a, b in rest if (a, b) != (x, y)), (0.0, 0.0))
    return all(across * (b - y) == down * (a - x) for a, b in rest)
