"""The models of the Open Inference Protocol v2: each model of the service twice, for tensors and for encoded images.

The model ``NAME`` is the deployment graph: pixels in, the outputs of the graph out. The model ``NAME@image`` takes an encoded
image, and returns detections in pixels of that image. Both run in the lane of the model, in batches with frames of cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from vision_infer import __version__
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import UsageError
from vision_infer.service.backend import Backend
from vision_infer.service.errors import UnknownModelError
from vision_infer.service.inference_protocol.tensors import InputTensor, OutputTensor, TensorSpec, check, one_element, pixels
from vision_infer.service.results.requests import MAX_WAITING

VERSION = "1"
"""The only version of each model."""
SERVER = {"name": "vision-infer", "version": __version__, "extensions": ["binary_tensor_data"]}
"""The metadata of the server."""
_IMAGE = "@image"
_GRAPH_OUTPUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "boxes": ("FP32", (-1, -1, 4)),
    "scores": ("FP32", (-1, -1)),
    "class_ids": ("INT32", (-1, -1)),
    "embedding": ("FP32", (-1, -1)),
    "keypoints": ("FP32", (-1, -1, -1, 3)),
    "coefficients": ("FP32", (-1, -1, -1)),
    "prototypes": ("FP32", (-1, -1, -1, -1)),
    "rotated_boxes": ("FP32", (-1, -1, 5)),
    "classes": ("UINT8", (-1, -1, -1)),
    "probabilities": ("UINT8", (-1, -1, -1)),
}
_RESULT = TensorSpec("result", "BYTES", (1,))
_DETECTIONS = (
    TensorSpec("boxes", "FP32", (-1, 4)),
    TensorSpec("scores", "FP32", (-1,)),
    TensorSpec("class_ids", "INT32", (-1,)),
    TensorSpec("labels", "BYTES", (-1,)),
)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request, without the name of its model."""

    inputs: Sequence[InputTensor]
    outputs: Sequence[str] = ()
    """The names of the wanted outputs; empty: all."""
    deadline_ns: int | None = None
    """The monotonic time until which the client needs the outputs; None: there is a general limit."""


@dataclass(frozen=True, slots=True)
class ProtocolModel:
    """A model of the protocol."""

    name: str
    card: ModelCard

    @property
    def of_images(self) -> bool:
        """Whether it takes encoded images."""
        return self.name.endswith(_IMAGE)

    @property
    def input(self) -> TensorSpec:
        """The only input."""
        if self.of_images:
            return TensorSpec("image", "BYTES", (1,))
        return TensorSpec("images", "UINT8", (-1, self.card.input.height, self.card.input.width, 3))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """All outputs."""
        if self.of_images:
            return (*_DETECTIONS, _RESULT) if self.card.task == "detect" else (_RESULT,)
        return tuple(TensorSpec(name, *_GRAPH_OUTPUTS[name]) for name in self.card.outputs)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, with the names of the protocol."""
        inputs, outputs = [asdict(self.input)], [asdict(spec) for spec in self.outputs]
        return {"name": self.name, "versions": [VERSION], "platform": "onnx", "inputs": inputs, "outputs": outputs}


def model_of(backend: Backend, name: str, version: str = "") -> ProtocolModel:
    """Return a model that is loaded.

    Raises:
        UnknownModelError: There is no such model or version.
        UnavailableError: The model is not loaded.
    """
    if version not in ("", VERSION):
        raise UnknownModelError(f"model {name[:200]!r} has no version {version[:20]!r}", f"Its version is {VERSION}.")
    return ProtocolModel(name, backend.card(name.removesuffix(_IMAGE)))


def infer(backend: Backend, model: ProtocolModel, request: InferRequest) -> list[OutputTensor]:
    """Run inference and return the wanted outputs.

    Raises:
        UsageError: An input is missing or invalid, or a wanted output is unknown.
        UnavailableError: The model is not loaded, too many images wait, or the deadline has passed.
    """
    wanted = model.input
    if len(request.inputs) != 1:
        raise UsageError(f"{len(request.inputs)} inputs were sent", f"Send one input, {wanted.name!r}.")
    known = [spec.name for spec in model.outputs]
    for name in request.outputs:
        if name not in known:
            raise UsageError(f"unknown output {name[:100]!r}", f"The outputs are {', '.join(known)}.")
    tensor = request.inputs[0]
    check(tensor, wanted)
    outputs = (_of_image if model.of_images else _of_graph)(backend, model, tensor, request.deadline_ns)
    return [outputs[name] for name in request.outputs or known]


def _of_graph(backend: Backend, model: ProtocolModel, tensor: InputTensor, deadline_ns: int | None) -> dict[str, OutputTensor]:
    if tensor.shape[0] > MAX_WAITING:
        raise UsageError(f"{tensor.shape[0]} images are too many for one request", f"Send at most {MAX_WAITING}.")
    found = backend.infer_tensors(pixels(tensor), model.name, deadline_ns)
    return {name: OutputTensor(name, output) for name, output in found.items()}


def _of_image(backend: Backend, model: ProtocolModel, tensor: InputTensor, deadline_ns: int | None) -> dict[str, OutputTensor]:
    result = backend.infer(one_element(tensor), model.name.removesuffix(_IMAGE), None, None, deadline_ns)
    found = result.detections
    labels = [found.label_of(class_id).encode() for class_id in found.class_ids.tolist()]
    outputs = (
        OutputTensor("boxes", found.boxes.astype(np.float32, copy=False)),
        OutputTensor("scores", found.scores.astype(np.float32, copy=False)),
        OutputTensor("class_ids", found.class_ids.astype(np.int32, copy=False)),
        OutputTensor("labels", labels),
        OutputTensor("result", [result.to_json().encode()]),
    )
    return {output.name: output for output in outputs}


Outputs: TypeAlias = tuple[list[dict[str, Any]], list[bytes]]
"""The name, datatype and shape of each output, and their binary data."""


class Models(Protocol):
    """The models of a service, in this process or in workers. Methods block; any thread may call them."""

    def ready(self) -> bool:
        """Return whether inference is possible."""

    def metadata(self, name: str, version: str) -> dict[str, Any]:
        """Return the inputs and outputs of a model; see :func:`model_of`."""

    def infer(self, name: str, version: str, request: InferRequest) -> Outputs:
        """Run inference; see :func:`infer`."""


class LocalModels:
    """The models of this process; see :class:`Models`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def ready(self) -> bool:
        """Return whether inference is possible."""
        return self._backend.ready()[0]

    def metadata(self, name: str, version: str) -> dict[str, Any]:
        """Return the inputs and outputs of a model."""
        return model_of(self._backend, name, version).metadata

    def infer(self, name: str, version: str, request: InferRequest) -> Outputs:
        """Run inference."""
        outputs = infer(self._backend, model_of(self._backend, name, version), request)
        shown = [{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in outputs]
        return shown, [one.to_bytes() for one in outputs]


def after_timeout(arrived_ns: int, timeout_us: object) -> int | None:
    """Return the deadline of a request with a ``timeout`` in microseconds (Triton's schedule policy extension).

    Raises:
        UsageError: The timeout is not a positive integer.
    """
    if timeout_us is None:
        return None
    if type(timeout_us) is not int or timeout_us <= 0:
        raise UsageError("the parameter timeout is not a positive integer", "Send microseconds.")
    return arrived_ns + timeout_us * 1000
