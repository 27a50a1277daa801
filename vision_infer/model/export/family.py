"""What a family is: the file of :mod:`vision_infer.model.export.families` that knows how to build one kind of network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from vision_infer.core.geometry import Size
from vision_infer.model.network import ScoreKind

Origin = Literal["random", "file", "download", "given"]
"""where weights come from; ``given``: a person's own function brings them"""
OnMessage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built."""

    variant: str
    size: Size
    """of the input"""
    origin: Origin
    file: Path | None = None
    """of the weights, where they come from one"""
    classes: int | None = None
    """as the library counts them; None: as many as the official weights have"""


@dataclass(frozen=True, slots=True)
class Built:
    """A network as PyTorch runs it, in eval mode."""

    module: Any
    """``torch.nn.Module``: float32 [B, 3, H, W], normalised as the card says, to one tensor for each of ``outputs``"""
    outputs: tuple[str, ...]
    card: Mapping[str, Any] = field(default_factory=dict)
    """fields of the card that are not the head's defaults: labels, licence, accuracy, normalisation"""
    strict: bool = False
    """whether PyTorch has to read its code (``strict`` of torch.export), where following one run would fix the batch"""
    notes: tuple[str, ...] = ()
    """what was found out on the way, for the person who exports; a line each"""


@dataclass(frozen=True, slots=True)
class Family:
    """Networks that are built alike."""

    title: str
    """what people call it"""
    head: str
    """the file of :mod:`vision_infer.model.heads` that decodes it"""
    task: Literal["detect", "classify", "embed"]
    library: str
    """the package it is built with"""
    variants: tuple[str, ...]
    """the smallest first, which is taken where none is named"""
    official: str
    """where the official weights come from"""
    build: Callable[[Order], Built]
    """raises ModelError where the weights do not fit"""
    input_size: Callable[[str], Size]
    """the usual input of a variant"""
    multiple: int = 1
    """what the sides of its input have to be multiples of"""
    scores: ScoreKind | None = None
    """what its class scores are, where its graph does not tell"""


@dataclass(frozen=True, slots=True)
class Refused:
    """A family that cannot be exported."""

    title: str
    reason: str


class FamilyFile(Protocol):
    """A module under ``families/``. Adding a family means adding one such file."""

    FAMILY: Family | Refused
