"""The catalog: openly licensed models that can be downloaded from their authors, with a card each in ``models/catalog``."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vision_infer.core.card import Accuracy, InputSize, Weights
from vision_infer.core.errors import ModelError
from vision_infer.model.catalog import AVAILABLE_FOLDER, bundled_dir
from vision_infer.model.pull.checksum import Checksum, parse_checksum

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _CatalogModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RemoteFile(_CatalogModel):
    """The file to download."""

    url: str = Field(default="", description="The address of the file; empty: its authors offer it on a page only.")
    page: str = Field(default="", description="The page of the file, if it has no url.")
    read_in: str = Field(description="Where the address was read: a file of the source, and its version.")
    checksum: str = Field(default="", description="The published checksum: sha256: or md5: and hexadecimal digits.")
    megabytes: float | None = Field(default=None, gt=0, description="The published size.")

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
            raise ValueError("must have either a url or a page")
        return self

    @property
    def stated(self) -> Checksum | None:
        """The published checksum, if there is one."""
        return parse_checksum(self.checksum)

    @property
    def name(self) -> str:
        """The last part of the address."""
        last = urlsplit(self.url).path.rpartition("/")[2]
        return last if _FILE_NAME.fullmatch(last) else "weights"


class Import(_CatalogModel):
    """An ONNX file, which ``model import`` converts to a deployment graph."""

    head: str = Field(description="The model family: a file in vision_infer/model/heads.")
    labels: Literal["coco", ""] = ""


class Export(_CatalogModel):
    """Weights, from which ``model export`` builds a deployment graph."""

    family: str = Field(description="FAMILY/VARIANT of `model export`.")


class AvailableModel(_CatalogModel):
    """A model that can be downloaded and converted by ``import``, by ``export``, or with manual steps first."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    task: Literal["detect", "classify", "embed"] = "detect"
    family: str = Field(min_length=1, description="The authors' name of the family.")
    license: str = Field(min_length=1, description="The SPDX identifier of the code and the weights, as published.")
    source: str = Field(min_length=1, description="The authors' repository.")
    input: InputSize
    parameters_millions: float | None = Field(default=None, gt=0)
    accuracy: tuple[Accuracy, ...] = Field(min_length=1, description="The published accuracy and its data set.")
    file: RemoteFile
    import_: Import | None = Field(default=None, alias="import")
    export: Export | None = None
    by_hand: str = Field(default="", description="The manual steps before `import`.")

    @model_validator(mode="after")
    def _can_become_a_graph(self) -> AvailableModel:
        if (self.import_ is None) == (self.export is None):
            raise ValueError("must have either import or export")
        if bool(self.by_hand) and self.import_ is None:
            raise ValueError("by_hand needs import")
        return self

    def about(self, sha256: str) -> dict[str, Any]:
        """Return fields for the card of the model, given the checksum of its file."""
        weights = Weights(source=self.file.url or self.file.page, sha256=sha256, attribution=f"{self.family}, {self.source}")
        return {"license": self.license, "accuracy": self.accuracy, "weights": weights}


def available_dir() -> Path:
    """Return the folder of the catalog's cards."""
    return bundled_dir() / AVAILABLE_FOLDER


def list_available(folder: Path | None = None) -> list[AvailableModel]:
    """Return all models of the catalog, sorted by name.

    Raises:
        ModelError: A card is invalid.
    """
    return [read_available((folder or available_dir()) / f"{name}.yaml") for name in available_names(folder)]


def find_available(name: str, folder: Path | None = None) -> AvailableModel:
    """Return a model of the catalog.

    Raises:
        ModelError: The catalog has no model of this name.
    """
    names = available_names(folder)
    if name in names:
        return read_available((folder or available_dir()) / f"{name}.yaml")
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ModelError(f"'{name}' is not in the catalog", f"{hint}Run 'vision-infer model list --available' to list all.")


def available_names(folder: Path | None = None) -> tuple[str, ...]:
    """Return the names in the catalog, without reading the cards."""
    return tuple(sorted(path.stem for path in (folder or available_dir()).glob("*.yaml")))


def read_available(path: Path) -> AvailableModel:
    """Read a card of the catalog.

    Raises:
        ModelError: The card cannot be read, or is invalid.
    """
    import yaml

    where = f"{path.parent.name}/{path.name}"
    try:
        found = AvailableModel.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"{where}: cannot be read", "Install the package again.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "card"
        raise ModelError(f"{where}: field '{field}': {first['msg']}", "See models/README.md.") from error
    if found.name != path.stem:
        raise ModelError(f"{where}: its name field is '{found.name}'", "Rename the file or change the field.")
    return found
