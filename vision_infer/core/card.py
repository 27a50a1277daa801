"""The model card: the description of a model. It is in ``model.yaml`` next to a model, and inside the deployment graph."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vision_infer.core.errors import ModelError
from vision_infer.core.field_problem import field_problem
from vision_infer.core.geometry import Fit, Size

CARD_KEY = "vision_infer.card"
"""The key of the card in the ``metadata_props`` of a deployment graph."""

Byte = Annotated[int, Field(ge=0, le=255)]
Task = Literal["detect", "classify", "embed", "segment", "keypoints"]
"""What a model returns for an image: detections, its class, a vector, the class of each pixel, or the keypoints of one object."""
DetailKind = Literal["keypoints", "masks", "rotated_boxes"]
"""What a detector returns for each detection in addition to its box."""

_OUTPUTS: dict[str, tuple[str, ...]] = {
    "detect": ("boxes", "scores", "class_ids"),
    "classify": ("scores",),
    "embed": ("embedding",),
    "segment": ("classes",),
    "keypoints": ("keypoints",),
    "masks": ("coefficients", "prototypes"),
    "rotated_boxes": ("rotated_boxes",),
}
"""The outputs of a deployment graph, by task, and the additional ones by detail."""


class _CardPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSize(_CardPart):
    """The size of the model's input."""

    width: int = Field(ge=1, le=16384, description="In pixels.")
    height: int = Field(ge=1, le=16384, description="In pixels.")


class Weights(_CardPart):
    """The origin of the weights."""

    source: str = Field(default="", description="The file, package or page that they were taken from.")
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="The checksum of the original model.")
    attribution: str = Field(default="", description="The attribution that the license requires.")


class Accuracy(_CardPart):
    """A published accuracy figure."""

    metric: str = Field(description="For instance: mAP 0.50:0.95.")
    dataset: str = Field(description="For instance: COCO val2017.")
    value: float = Field(description="The value in the usual unit of the metric, per cent for mAP.")
    source: str = Field(default="", description="The publisher of the figure.")


class KeypointLayout(_CardPart):
    """The keypoints of each detection."""

    names: tuple[str, ...] = Field(min_length=1, max_length=1000, description="The names, in the order of the model.")
    skeleton: tuple[tuple[int, int], ...] = Field(default=(), description="The lines to draw: pairs of numbers from 0.")

    @model_validator(mode="after")
    def _lines_between_keypoints(self) -> Self:
        for line in self.skeleton:
            if not all(0 <= end < len(self.names) for end in line):
                raise ValueError(f"the skeleton has the line {list(line)}, but the keypoints are 0 to {len(self.names) - 1}")
        return self


class ModelCard(_CardPart):
    """The description of a model. All fields except ``name`` and ``input`` have defaults; unknown fields are rejected."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    task: Task = "detect"
    detail: DetailKind | None = Field(
        default=None, description="What each detection has in addition to its box; null: nothing. Only with the task detect."
    )
    keypoints: KeypointLayout | None = Field(default=None, description="Only with the detail or the task keypoints.")
    head: str = Field(default="", description="The model family of the decoder: a module of vision_infer/model/heads.")
    input: InputSize
    color: Literal["rgb", "bgr"] = Field(default="rgb", description="The color order of the original model; the graph takes RGB.")
    mean: tuple[float, float, float] = Field(default=(0.0, 0.0, 0.0), description="Subtracted in the graph, in color order.")
    std: tuple[float, float, float] = Field(default=(1.0, 1.0, 1.0), description="The divisor in the graph, in color order.")
    fit: Fit = Field(default="center", description="How an image is fitted into the input.")
    fill: tuple[Byte, Byte, Byte] = Field(default=(114, 114, 114), description="The RGB color around the image.")
    labels: tuple[str, ...] | None = Field(default=None, description="The labels by class number; null: the number is the label.")
    confidence: float = Field(default=0.35, ge=0, le=1, description="The default minimum confidence.")
    max_batch: Literal[1] | None = Field(
        default=None, description="1: the graph runs one image at a time, because its batch is fixed; null: any batch."
    )
    unclip: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="How far regions of a map of probabilities grow until they are boxes: this times area / outline; null: the "
        "graph returns boxes. Only with the detail rotated_boxes.",
    )
    iou: float | None = Field(default=0.6, gt=0, le=1, description="The default IoU threshold of NMS; null: no NMS is needed.")
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

    @model_validator(mode="after")
    def _detail_fits(self) -> Self:
        if self.detail is not None and self.task != "detect":
            raise ValueError(f"the detail '{self.detail}' needs the task 'detect', not '{self.task}'")
        if (self.keypoints is None) == ("keypoints" in (self.task, self.detail)):
            raise ValueError("the field 'keypoints' belongs to the detail or the task 'keypoints', and only to these")
        if self.unclip is not None and self.detail != "rotated_boxes":
            raise ValueError("the field 'unclip' belongs to the detail 'rotated_boxes', and only to this")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the deployment graph's outputs."""
        if self.unclip is not None:
            return ("probabilities",)
        return _OUTPUTS[self.task] + (() if self.detail is None else _OUTPUTS[self.detail])

    @property
    def input_size(self) -> Size:
        """The size of the model's input."""
        return Size(self.input.width, self.input.height)

    def label(self, class_id: int) -> str:
        """Return the name of a class; its number if the card has no name for it."""
        if self.labels is not None and 0 <= class_id < len(self.labels):
            return self.labels[class_id]
        return str(class_id)

    def to_json(self) -> str:
        """Return the card as it is stored in a deployment graph."""
        # Left out unless set, so that the bytes of graphs without them are the same for all versions that read them.
        return self.model_dump_json(
            exclude={name for name in ("max_batch", "detail", "keypoints", "unclip") if getattr(self, name) is None}
        )


def parse_card(data: Any, where: str) -> ModelCard:
    """Check a card that was read from YAML or JSON.

    Args:
        data: The decoded mapping.
        where: The name of the file, for errors.

    Raises:
        ModelError: A field is missing, unknown or has an invalid value; names the first such field.
    """
    try:
        return ModelCard.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        given = "" if first["type"] == "missing" else f", got {str(first['input'])[:60]!r}"
        message = f"{where}: {field_problem(error, 'card')}{given}"
        raise ModelError(message, "See docs/reference/results.md for the card's fields.") from error


def parse_card_json(text: str, where: str) -> ModelCard:
    """Check a card from the JSON text in a deployment graph, as :func:`parse_card` does."""
    import json

    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{where}: the card is not valid JSON", "Import the model again with 'vision-infer model import'."
        ) from error
    return parse_card(data, where)
