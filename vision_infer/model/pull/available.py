"""The catalogue: openly licensed networks that can be pulled from their authors, a card each in ``models/catalogue``."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vision_infer.core.card import Accuracy, InputSize, Weights
from vision_infer.core.errors import ModelError
from vision_infer.model.catalogue import AVAILABLE_FOLDER, bundled_dir
from vision_infer.model.pull.checksum import Checksum, parse_checksum

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RemoteFile(_Part):
    """The file that is fetched."""

    url: str = Field(default="", description="where it is fetched from; empty: its authors offer it on a page only")
    page: str = Field(default="", description="where a person finds it, where there is no url")
    read_in: str = Field(description="where that was read: a file of the source, and its version")
    checksum: str = Field(default="", description="sha256: or md5: and hexadecimal digits, as the source states it")
    megabytes: float | None = Field(default=None, gt=0, description="size, as the source states it")

    @field_validator("url", "page")
    @classmethod
    def _over_tls(cls, url: str) -> str:
        if url and (urlsplit(url).scheme != "https" or not urlsplit(url).hostname):
            raise ValueError("must be https://")
        return url

    @field_validator("checksum")
    @classmethod
    def _is_checksum(cls, checksum: str) -> str:
        parse_checksum(checksum)
        return checksum

    @model_validator(mode="after")
    def _is_somewhere(self) -> RemoteFile:
        if bool(self.url) == bool(self.page):
            raise ValueError("needs a url or a page")
        return self

    @property
    def stated(self) -> Checksum | None:
        """Its checksum, as far as its source states one."""
        return parse_checksum(self.checksum)

    @property
    def name(self) -> str:
        """The last part of its address."""
        last = urlsplit(self.url).path.rpartition("/")[2]
        return last if _FILE_NAME.fullmatch(last) else "weights"


class Import(_Part):
    """An ONNX file, of which ``model import`` makes a deployment graph."""

    head: str = Field(description="its family: a file of vision_infer/model/heads")
    labels: Literal["coco", ""] = ""


class Export(_Part):
    """Weights, of which ``model export`` makes a deployment graph."""

    family: str = Field(description="FAMILY/VARIANT, as `model export` calls it")


class AvailableModel(_Part):
    """A network that can be pulled. How it becomes a deployment graph: by ``import``, by ``export``, or by hand."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    task: Literal["detect", "classify", "embed"] = "detect"
    family: str = Field(min_length=1, description="as its authors call it")
    license: str = Field(min_length=1, description="SPDX identifier, of the code and of the weights as their authors give them")
    source: str = Field(min_length=1, description="the authors' repository")
    input: InputSize
    parameters_millions: float | None = Field(default=None, gt=0)
    accuracy: tuple[Accuracy, ...] = Field(min_length=1, description="as published, and what it was measured on")
    file: RemoteFile
    import_: Import | None = Field(default=None, alias="import")
    export: Export | None = None
    by_hand: str = Field(default="", description="what a person does first to have the ONNX file that `import` takes")

    @model_validator(mode="after")
    def _can_become_a_graph(self) -> AvailableModel:
        if (self.import_ is None) == (self.export is None):
            raise ValueError("needs import or export")
        if bool(self.by_hand) and self.import_ is None:
            raise ValueError("what is made by hand is imported")
        return self

    def about(self, sha256: str) -> dict[str, Any]:
        """What goes into the card of the model that is made of its file, by the file's checksum."""
        weights = Weights(source=self.file.url or self.file.page, sha256=sha256, attribution=f"{self.family}, {self.source}")
        return {"license": self.license, "accuracy": self.accuracy, "weights": weights}


def available_dir() -> Path:
    """The folder of the catalogue's cards."""
    return bundled_dir() / AVAILABLE_FOLDER


def list_available(folder: Path | None = None) -> list[AvailableModel]:
    """All networks of the catalogue, sorted by name.

    Raises:
        ModelError: a card is wrong.
    """
    return [read_available((folder or available_dir()) / f"{name}.yaml") for name in available_names(folder)]


def find_available(name: str, folder: Path | None = None) -> AvailableModel:
    """A network of the catalogue.

    Raises:
        ModelError: there is none of this name; names the nearest ones.
    """
    names = available_names(folder)
    if name in names:
        return read_available((folder or available_dir()) / f"{name}.yaml")
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ModelError(f"'{name}' is not in the catalogue", f"{hint}'vision-infer model list --available' shows all")


def available_names(folder: Path | None = None) -> tuple[str, ...]:
    """The names in the catalogue; no card is read."""
    return tuple(sorted(path.stem for path in (folder or available_dir()).glob("*.yaml")))


def read_available(path: Path) -> AvailableModel:
    """Read a card of the catalogue.

    Raises:
        ModelError: it cannot be read, or is no such card; names the first field that is wrong.
    """
    import yaml

    where = f"{path.parent.name}/{path.name}"
    try:
        found = AvailableModel.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"{where}: cannot be read", "install the package anew") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "card"
        raise ModelError(f"{where}: field '{field}': {first['msg']}", "see models/README.md") from error
    if found.name != path.stem:
        raise ModelError(f"{where}: is called '{found.name}' inside", "give the file the same name")
    return found
