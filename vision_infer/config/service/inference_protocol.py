"""The settings of the Open Inference Protocol."""

from __future__ import annotations

from pydantic import Field

from vision_infer.config.settings_base import SettingsBase


class InferenceProtocolSettings(SettingsBase):
    """The Open Inference Protocol v2, which clients of KServe and Triton use: HTTP under `/v2`, and gRPC."""

    grpc_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="The port of gRPC, at the address and with the certificate of `service`. 0: any free port. null: HTTP only.",
    )
