"""Plan files: an engine that TensorRT or TensorRT-RTX has built, with all that has to be known before it may be loaded.

    8 bytes    MAGIC
    4 bytes    length of the header, little-endian
    32 bytes   SHA-256 of all that follows
    header     JSON
    plan       to the end of the file

A plan is code for one kind of GPU, and a runtime that is given a foreign or damaged one may bring the process down: so all of it
is checked first.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size
from vision_infer.engine.contract import DTYPES, OutputShapes
from vision_infer.engine.graph_facts import Precision
from vision_infer.engine.tensorrt.names import PlanRuntime

MAGIC = b"VIPLAN\r\n"
"""its line end is changed by whatever copies files as text, which is noticed so"""
MAX_HEADER_BYTES = 16_000_000
"""a card with the labels of 20 000 classes has less than one"""
_HINT = "build it again: vision-infer engine build"
_PREFIX = struct.Struct("<8sI32s")


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A serialized engine, and what it is."""

    plan: bytes
    """as the runtime serialized it"""
    card: ModelCard
    """of the deployment graph"""
    graph_sha256: str
    """of the deployment graph"""
    runtime: PlanRuntime
    runtime_version: str
    """as the runtime's module tells it, such as ``1.7.1.116``"""
    compute_capabilities: tuple[str, ...]
    """the GPUs that it was built for, such as ``sm_89``, ascending"""
    precision: Precision
    """of the graph"""
    batch_sizes: tuple[int, ...]
    """that it is to run, ascending; all from the first to the last are possible"""
    outputs: OutputShapes
    """by name, in the order of the graph: shape without the batch, and dtype"""
    version_compatible: bool = False
    """of TensorRT only: whether later versions with the same major number may load it. It then holds code for the host, which the
    runtime has to be told to allow (``engine_host_code_allowed``)"""
    hardware: str = ""
    """of TensorRT only: the name of the GPU that it was built on; empty: any of the compute capabilities"""
    and_later: bool = False
    """of TensorRT only: whether GPUs of later compute capabilities may load it"""

    @property
    def input_size(self) -> Size:
        """Width and height of the input ``images``: uint8 [B, height, width, 3]."""
        return self.card.input_size

    @property
    def engine(self) -> str:
        """runtime-device-precision, such as ``tensorrt-rtx-cuda-fp16``"""
        return f"{self.runtime}-cuda-{self.precision}"

    def why_not(self, runtime: PlanRuntime, runtime_version: str, compute_capability: str, gpu: str = "") -> str:
        """Why it cannot be loaded by a runtime on a GPU; empty if it can.

        Args:
            runtime: which.
            runtime_version: its version.
            compute_capability: of the GPU, such as ``sm_89``.
            gpu: its name; empty: not known, and not compared.
        """
        if runtime != self.runtime:
            return f"it was built by {self.runtime}, not {runtime}"
        if runtime_version != self.runtime_version and not self._same_major(runtime_version):
            return f"it was built by {self.runtime} {self.runtime_version}, here is {runtime_version}"
        if not runs_on(compute_capability, self.compute_capabilities, self.and_later):
            return f"it was built for {' '.join(self.compute_capabilities)}, this GPU is {compute_capability}"
        if self.hardware and gpu and gpu != self.hardware:
            return f"it was built on {self.hardware}, this GPU is {gpu}"
        return ""

    def _same_major(self, version: str) -> bool:
        here, built = (tuple(map(int, text.split("."))) for text in (version, self.runtime_version))
        return self.version_compatible and here[0] == built[0] and here >= built

    def to_bytes(self) -> bytes:
        """The whole file."""
        header = _Header(
            card=self.card,
            graph_sha256=self.graph_sha256,
            runtime=self.runtime,
            runtime_version=self.runtime_version,
            compute_capabilities=self.compute_capabilities,
            precision=self.precision,
            batch_sizes=self.batch_sizes,
            outputs=tuple(_Output(name=name, shape=shape, dtype=dtype.name) for name, (shape, dtype) in self.outputs.items()),
            version_compatible=self.version_compatible,
            hardware=self.hardware,
            and_later=self.and_later,
            plan_bytes=len(self.plan),
        )
        text = header.model_dump_json().encode()
        checksum = hashlib.sha256(text)
        checksum.update(self.plan)
        return b"".join((_PREFIX.pack(MAGIC, len(text), checksum.digest()), text, self.plan))


class _PlanPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Output(_PlanPart):
    name: str
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    dtype: Literal["float32", "int32"]


class _Header(_PlanPart):
    format: Literal[1] = 1
    card: ModelCard
    graph_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    runtime: PlanRuntime
    runtime_version: str = Field(pattern=r"^[0-9]+(\.[0-9]+)*$")
    compute_capabilities: tuple[Annotated[str, Field(pattern="^sm_[0-9]{2,3}$")], ...] = Field(min_length=1)
    precision: Precision
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    outputs: tuple[_Output, ...] = Field(min_length=1)
    version_compatible: bool
    hardware: str
    and_later: bool
    plan_bytes: int = Field(ge=1)


def parse_plan(content: bytes, where: str) -> PlanFile:
    """Check the bytes of a plan file, and take them apart.

    Args:
        content: the whole file.
        where: names it in an error.

    Raises:
        EngineError: it is no plan file, or of a format that we do not know, cut short or damaged.
    """
    if len(content) < _PREFIX.size or content[: len(MAGIC)] != MAGIC:
        raise EngineError(f"{where}: is no plan file of vision-infer", _HINT)
    _, length, checksum = _PREFIX.unpack_from(content)
    view = memoryview(content)[_PREFIX.size :]
    if length > min(MAX_HEADER_BYTES, len(view)):
        raise EngineError(f"{where}: the plan is cut short or damaged", _HINT)
    if hashlib.sha256(view).digest() != checksum:
        raise EngineError(f"{where}: the plan is cut short or damaged (its checksum is wrong)", _HINT)
    try:
        header = _Header.model_validate_json(bytes(view[:length]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "header"
        raise EngineError(f"{where}: the plan's field '{field}': {first['msg']}", _HINT) from error
    plan = bytes(view[length:])
    if len(plan) != header.plan_bytes:
        raise EngineError(f"{where}: the plan has {len(plan)} bytes, not {header.plan_bytes}", _HINT)
    return PlanFile(
        plan,
        header.card,
        header.graph_sha256,
        header.runtime,
        header.runtime_version,
        header.compute_capabilities,
        header.precision,
        header.batch_sizes,
        {one.name: (one.shape, DTYPES[one.dtype]) for one in header.outputs},
        header.version_compatible,
        header.hardware,
        header.and_later,
    )


def runs_on(capability: str, built_for: tuple[str, ...], and_later: bool) -> bool:
    """Whether a GPU of a compute capability is among those that a plan was built for."""
    if capability in built_for:
        return True
    return and_later and capability_number(capability) > min(map(capability_number, built_for))


def capability_number(capability: str) -> int:
    """``sm_89`` as 89."""
    return int(capability.removeprefix("sm_"))
