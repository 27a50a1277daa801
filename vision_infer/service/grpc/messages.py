"""The protobuf messages of the Open Inference Protocol v2, from https://github.com/kserve/open-inference-protocol.

Only the fields that this server reads or writes are described; protobuf ignores the others. The messages are in a pool of their
own: in the default one, they would conflict with those of a client library in the same process.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live=1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready=1",
    "ModelReadyRequest": "string name=1, string version=2",
    "ModelReadyResponse": "bool ready=1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name=1, string version=2, string* extensions=3",
    "ModelMetadataRequest": "string name=1, string version=2",
    "TensorMetadata": "string name=1, string datatype=2, int64* shape=3",
    "ModelMetadataResponse": "string name=1, string* versions=2, string platform=3, TensorMetadata* inputs=4, "
    "TensorMetadata* outputs=5",
    "InferParameter": "int64 int64_param=2",
    "Parameter": "string key=1, InferParameter value=2",  # an entry of a map
    "InferTensorContents": "uint32* uint_contents=4, bytes* bytes_contents=8",
    "InferInputTensor": "string name=1, string datatype=2, int64* shape=3, InferTensorContents contents=5",
    "InferRequestedOutputTensor": "string name=1",
    "ModelInferRequest": "string model_name=1, string model_version=2, string id=3, Parameter* parameters=4, "
    "InferInputTensor* inputs=5, InferRequestedOutputTensor* outputs=6, bytes* raw_input_contents=7",
    "InferOutputTensor": "string name=1, string datatype=2, int64* shape=3",
    "ModelInferResponse": "string model_name=1, string model_version=2, string id=3, InferOutputTensor* outputs=5, "
    "bytes* raw_output_contents=6",
}
"""The fields of each message: type, ``*`` if it is repeated, name and number."""


def _load() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for kind, repeated, field, number in re.findall(r"(\w+)(\*?) (\w+)=(\d+)", fields):
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            added = message.field.add(name=field, number=int(number), label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                added.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES}


MESSAGES = _load()
"""The class of each message by name."""
