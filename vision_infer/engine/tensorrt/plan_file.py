"""Plan files: an engine built by TensorRT or TensorRT-RTX, with everything that has to be checked before it is loaded.

    8 bytes    MAGIC
    4 bytes    length of the header, little-endian
    32 bytes   SHA-256 of everything that follows
    header     JSON
    plan       to the end of the file

A plan is code for one kind of GPU, and a runtime that loads a foreign or damaged one may crash the process: therefore all of it
is checked first.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.core.field_problem import field_problem
from vision_infer.engine.contract import DTYPES, OutputShapes
from vision_infer.engine.graph_facts import Precision
from vision_infer.engine.tensorrt.names import PlanRuntime, capability_number

MAGIC = b"VIPLAN\r\n"
"""Its line end detects programs that copy files as text and convert line ends."""
MAX_HEADER_BYTES = 16_000_000
"""The maximum size of the header; a card with 20,000 labels has less than 1 MB."""
_HINT = "Build it again: vision-infer engine build"
_PREFIX = struct.Struct("<8sI32s")


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A serialized engine with its description."""

    plan: bytes
    """The engine, serialized by the runtime."""
    card: ModelCard
    graph_sha256: str
    runtime: PlanRuntime
    """The runtime that built it."""
    runtime_version: str
    """The version of the runtime, such as ``1.7.1.116``."""
    compute_capabilities: tuple[str, ...]
    """The GPUs that it was built for, such as ``sm_89``, ascending."""
    precision: Precision
    batch_sizes: tuple[int, ...]
    """The batch sizes that it was built for, ascending; all from the first to the last are possible."""
    outputs: OutputShapes
    """For each output, in the order of the graph, its shape without the batch, and its dtype."""
    version_compatible: bool = False
    """TensorRT only: whether later versions with the same major number can load it. It then contains code for the host."""
    hardware: str = ""
    """TensorRT only: the name of the GPU that it was built on; empty: any GPU of the compute capabilities."""
    and_later: bool = False
    """TensorRT only: whether GPUs of later compute capabilities can load it."""
    tf32: bool = False
    """Whether products of FP32 values are computed in TF32."""
    file: Path | None = field(default=None, compare=False)
    """Where it is cached; None: it is not."""

    @property
    def engine(self) -> str:
        """The name of the engine, such as ``tensorrt-rtx-cuda-fp16``."""
        return plan_engine_name(self.runtime, self.precision, self.tf32)

    def why_not(self, runtime: PlanRuntime, runtime_version: str, compute_capability: str, gpu: str = "") -> str:
        """Return why a runtime cannot load it on a GPU, empty if it can; an empty name of the GPU is not compared."""
        if runtime != self.runtime:
            return f"it was built by {self.runtime}, not {runtime}"
        if runtime_version != self.runtime_version and not self._same_major(runtime_version):
            return f"it was built by {self.runtime} {self.runtime_version}, installed is {runtime_version}"
        if not runs_on(compute_capability, self.compute_capabilities, self.and_later):
            return f"it was built for {' '.join(self.compute_capabilities)}, this GPU is {compute_capability}"
        if self.hardware and gpu and gpu != self.hardware:
            return f"it was built on {self.hardware}, this GPU is {gpu}"
        return ""

    def _same_major(self, version: str) -> bool:
        here, built = (tuple(map(int, text.split("."))) for text in (version, self.runtime_version))
        return self.version_compatible and here[0] == built[0] and here >= built

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        outputs = tuple(_PlanOutput(name=name, shape=shape, dtype=dtype.name) for name, (shape, dtype) in self.outputs.items())
        fields: dict[str, Any] = {name: getattr(self, name) for name in _SHARED_FIELDS}
        header = _PlanHeader(**fields, outputs=outputs, plan_bytes=len(self.plan))
        text = header.model_dump_json().encode()
        checksum = hashlib.sha256(text)
        checksum.update(self.plan)
        return b"".join((_PREFIX.pack(MAGIC, len(text), checksum.digest()), text, self.plan))


class _PlanPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _PlanOutput(_PlanPart):
    name: str
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    dtype: Literal["float32", "int32", "uint8"]


class _PlanHeader(_PlanPart):
    format: Literal[1] = 1
    card: ModelCard
    graph_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    runtime: PlanRuntime
    runtime_version: str = Field(pattern=r"^[0-9]+(\.[0-9]+)*$")
    compute_capabilities: tuple[Annotated[str, Field(pattern="^sm_[0-9]{2,3}$")], ...] = Field(min_length=1)
    precision: Precision
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    outputs: tuple[_PlanOutput, ...] = Field(min_length=1)
    version_compatible: bool
    hardware: str
    and_later: bool
    tf32: bool = False
    plan_bytes: int = Field(ge=1)


_SHARED_FIELDS = _PlanHeader.model_fields.keys() - {"format", "outputs", "plan_bytes"}
"""The fields that a plan and its header have in common."""


def parse_plan(content: bytes, where: str) -> PlanFile:
    """Check and parse the content of a plan file; ``where`` names it in an error.

    Raises:
        EngineError: It is not a plan file, has an unknown format, or is truncated or damaged.
    """
    if len(content) < _PREFIX.size or content[: len(MAGIC)] != MAGIC:
        raise EngineError(f"{where} is not a plan file of vision-infer", _HINT)
    _, length, checksum = _PREFIX.unpack_from(content)
    view = memoryview(content)[_PREFIX.size :]
    if length > min(MAX_HEADER_BYTES, len(view)):
        raise EngineError(f"{where}: the plan is truncated or damaged", _HINT)
    if hashlib.sha256(view).digest() != checksum:
        raise EngineError(f"{where}: the plan is truncated or damaged (its checksum is wrong)", _HINT)
    try:
        header = _PlanHeader.model_validate_json(bytes(view[:length]))
    except ValidationError as error:
        raise EngineError(f"{where}: the plan's {field_problem(error, 'header')}", _HINT) from error
    plan = bytes(view[length:])
    if len(plan) != header.plan_bytes:
        raise EngineError(f"{where}: the plan has {len(plan)} bytes, not {header.plan_bytes}", _HINT)
    fields: dict[str, Any] = {name: getattr(header, name) for name in _SHARED_FIELDS}
    return PlanFile(plan=plan, outputs={one.name: (one.shape, DTYPES[one.dtype]) for one in header.outputs}, **fields)


def plan_engine_name(runtime: PlanRuntime, precision: Precision, tf32: bool) -> str:
    """Return the name of a plan's engine; TF32 counts as a precision: its results and its accuracy are not those of FP32."""
    return f"{runtime}-cuda-{'tf32' if tf32 else precision}"


def runs_on(capability: str, built_for: tuple[str, ...], and_later: bool) -> bool:
    """Return whether a plan runs on a GPU of a compute capability."""
    if capability in built_for:
        return True
    return and_later and capability_number(capability) > min(map(capability_number, built_for))
