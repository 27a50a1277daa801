"""The model card: what a network is. It is written as ``model.yaml`` beside a model and travels inside the deployment graph."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Fit, Size

CARD_KEY = "vision_infer.card"
"""key of the card in the ``metadata_props`` of a deployment graph"""

Byte = Annotated[int, Field(ge=0, le=255)]


class _CardPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSize(_CardPart):
    """Size of the network's input."""

    width: int = Field(ge=1, le=16384, description="pixels")
    height: int = Field(ge=1, le=16384, description="pixels")


class Weights(_CardPart):
    """Where the weights come from."""

    source: str = Field(default="", description="the file, package or page that they were taken from")
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="checksum of the raw network they were taken from")
    attribution: str = Field(default="", description="whom the licence asks to be named")


class Accuracy(_CardPart):
    """A published accuracy figure."""

    metric: str = Field(description="for instance: mAP 0.50:0.95")
    dataset: str = Field(description="for instance: COCO val2017")
    value: float = Field(description="in the metric's usual unit, per cent for mAP")
    source: str = Field(default="", description="who published it")


class ModelCard(_CardPart):
    """What a network is. All fields but ``name`` and ``input`` have defaults; unknown fields are refused."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    task: Literal["detect", "classify", "embed"] = "detect"
    head: str = Field(default="", description="the family whose decoding the graph holds: a file of vision_infer/model/heads")
    input: InputSize
    color: Literal["rgb", "bgr"] = Field(default="rgb", description="what the raw network wants; the graph itself takes RGB")
    mean: tuple[float, float, float] = Field(default=(0.0, 0.0, 0.0), description="subtracted in the graph, in colour order")
    std: tuple[float, float, float] = Field(default=(1.0, 1.0, 1.0), description="divided by in the graph, in colour order")
    fit: Fit = Field(default="center", description="how a picture is fitted into the input")
    fill: tuple[Byte, Byte, Byte] = Field(default=(114, 114, 114), description="RGB around the picture")
    labels: tuple[str, ...] | None = Field(default=None, description="by class number; null: the number itself is the label")
    confidence: float = Field(default=0.35, ge=0, le=1, description="default score threshold")
    iou: float | None = Field(default=0.6, gt=0, le=1, description="default IoU of NMS; null: the network needs no NMS")
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    license: str = ""
    weights: Weights = Weights()
    accuracy: tuple[Accuracy, ...] = ()

    @field_validator("std")
    @classmethod
    def _std_not_zero(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if any(value == 0 for value in std):
            raise ValueError("must not be 0")
        return std

    @property
    def input_size(self) -> Size:
        """The network's input."""
        return Size(self.input.width, self.input.height)

    def label(self, class_id: int) -> str:
        """The name of a class; its number where the card has no name for it."""
        if self.labels is not None and 0 <= class_id < len(self.labels):
            return self.labels[class_id]
        return str(class_id)

    def to_json(self) -> str:
        """The card as it is stored in a deployment graph."""
        return self.model_dump_json()


def parse_card(data: Any, where: str) -> ModelCard:
    """Check a card that was read from YAML or JSON.

    Args:
        data: the decoded mapping.
        where: names the file in an error.

    Raises:
        ModelError: a field is missing, unknown or has a wrong value; names the first such field.
    """
    try:
        return ModelCard.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "card"
        given = "" if first["type"] == "missing" else f", got {str(first['input'])[:60]!r}"
        message = f"{where}: field '{field}': {first['msg']}{given}"
        raise ModelError(message, "see docs/reference/results.md for the card's fields") from error


def parse_card_json(text: str, where: str) -> ModelCard:
    """Like :func:`parse_card`, from the JSON text stored in a deployment graph."""
    import json

    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: its card is not JSON", "import the model again with 'vision-infer model import'") from error
    return parse_card(data, where)
