"""Tensors of the Open Inference Protocol v2, and their checks.

The specification is https://github.com/kserve/open-inference-protocol; binary data follow Triton's binary tensor data extension,
which https://github.com/triton-inference-server/server describes in its documentation of the protocol.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import UsageError

_LENGTH = struct.Struct("<I")
"""The length before each element of BYTES in binary data."""
_DATATYPES = {"u1": "UINT8", "i4": "INT32", "f4": "FP32"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model, as metadata describe it."""

    name: str
    datatype: str
    """``UINT8``, ``INT32``, ``FP32`` or ``BYTES``."""
    shape: tuple[int, ...]
    """The lengths of its axes; -1 for a variable one."""


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input of a request, not checked yet. Its content is in ``raw`` or in ``values``."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: memoryview | bytes | None = None
    """The content as binary data."""
    values: Sequence[Any] | None = None
    """The content as elements: numbers, bytes, or texts in Base64, in nested or flat lists."""


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output of a model."""

    name: str
    data: NDArray[Any] | list[bytes]
    """The elements; a list for BYTES, which has one axis."""

    @property
    def datatype(self) -> str:
        """The type of the elements."""
        return "BYTES" if isinstance(self.data, list) else _DATATYPES[self.data.dtype.str[1:]]

    @property
    def shape(self) -> list[int]:
        """The lengths of the axes."""
        return [len(self.data)] if isinstance(self.data, list) else list(self.data.shape)

    def to_bytes(self) -> bytes:
        """Return the content as binary data."""
        if isinstance(self.data, list):
            return b"".join(part for element in self.data for part in (_LENGTH.pack(len(element)), element))
        return self.data.astype(self.data.dtype.newbyteorder("<"), copy=False).tobytes()

    def to_values(self) -> list[Any]:
        """Return the content as a flat list for JSON.

        Raises:
            UsageError: It contains an infinite number or NaN, which JSON cannot represent.
        """
        if isinstance(self.data, list):
            return [element.decode() for element in self.data]
        if not np.isfinite(self.data).all():
            raise UsageError(f"output {self.name!r} contains numbers that are not finite", "Request it as binary data.")
        values: list[Any] = self.data.ravel().tolist()
        return values


def check(tensor: InputTensor, spec: TensorSpec) -> None:
    """Check the name, datatype and shape of an input.

    Raises:
        UsageError: One of them is wrong; the message names the right one.
    """
    if tensor.name != spec.name:
        raise UsageError(f"unknown input {tensor.name[:100]!r}", f"The input is {spec.name!r}.")
    if tensor.datatype != spec.datatype:
        raise UsageError(f"input {spec.name!r} has the datatype {tensor.datatype[:20]}", f"Send {spec.datatype}.")
    fits = len(tensor.shape) == len(spec.shape) and all(
        length > 0 and wanted in (-1, length) for length, wanted in zip(tensor.shape, spec.shape, strict=True)
    )
    if not fits:
        shown = f"{list(tensor.shape)[:8]}"
        raise UsageError(f"input {spec.name!r} has the shape {shown}", f"Send {list(spec.shape)}; -1 is any length.")


def pixels(tensor: InputTensor) -> NDArray[np.uint8]:
    """Return the content of a checked UINT8 tensor, in its shape.

    Raises:
        UsageError: The content does not fit the shape or the datatype.
    """
    if tensor.raw is not None:
        found: NDArray[Any] = np.frombuffer(tensor.raw, np.uint8)
    else:
        try:
            found = np.array(_given(tensor))
        except (ValueError, OverflowError):  # lists of different lengths, or a huge number
            found = np.empty(0)
        if found.dtype.kind not in "iu" or found.min() < 0 or found.max() > 255:
            raise UsageError(
                f"the data of input {tensor.name!r} are not numbers of the type UINT8", "Send integers from 0 to 255."
            )
    if found.size != prod(tensor.shape):
        message = f"input {tensor.name!r} has {found.size} elements, but its shape has {prod(tensor.shape)}"
        raise UsageError(message, "Send as many elements as the shape has.")
    return found.reshape(tensor.shape).astype(np.uint8, copy=False)


def one_element(tensor: InputTensor) -> bytes:
    """Return the only element of a checked BYTES tensor.

    Raises:
        UsageError: There are more elements or none, or an element is not valid.
    """
    if tensor.raw is not None:
        element = bytes(tensor.raw[_LENGTH.size :])
        if len(tensor.raw) < _LENGTH.size or _LENGTH.unpack_from(tensor.raw)[0] != len(element):
            raise UsageError(
                f"the data of input {tensor.name!r} are not one element", "Send its length (4 bytes) and its content."
            )
        return element
    values = list(_flat(_given(tensor)))
    if len(values) != 1:
        raise UsageError(f"input {tensor.name!r} has {len(values)} elements", "Send one element.")
    if isinstance(values[0], bytes):
        return values[0]
    try:
        return base64.b64decode(values[0], validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise UsageError(f"the data of input {tensor.name!r} are not text in Base64", "Send Base64, or binary data.") from None


def _given(tensor: InputTensor) -> Sequence[Any]:
    if tensor.values is None:
        raise UsageError(f"input {tensor.name!r} has no data", "Send the data, or the parameter binary_data_size.")
    return tensor.values


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value
