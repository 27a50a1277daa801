"""Where the service sends traces and metrics by OTLP.

telemetry:
  endpoint: http://collector.lan:4318
  headers:
    Authorization: file:/run/secrets/otlp
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from vision_infer.config.settings_base import SettingsBase
from vision_infer.core.packages import EXTRA_OF, install


def _endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:
        valid = False
    if not valid or "@" in parts.netloc:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT without a user and password; use `headers` instead")
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.proto") is None:
        raise ValueError(f"needs the package opentelemetry.proto, which is not installed. {install(EXTRA_OF['opentelemetry'])}")
    return url.rstrip("/")


class TelemetrySettings(SettingsBase):
    """OpenTelemetry: traces of frames and requests, and metrics, sent by OTLP over HTTP."""

    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        default=None,
        max_length=4096,
        repr=False,
        description="The URL of the OTLP receiver, such as http://collector.lan:4318, without `/v1/traces`. Logs show only its "
        "host. null: OpenTelemetry is off.",
    )
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")], SecretStr] = Field(
        default_factory=dict, max_length=16, description="Additional headers, such as `Authorization`."
    )
    ca: Path | None = Field(default=None, description="The file of trusted certificates, PEM. Defaults to the system's.")
    sample_ratio: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="The fraction of frames that get a trace, and of requests without `traceparent`.",
    )
    metrics_s: float | None = Field(
        default=60.0, ge=1, le=86_400, description="The interval of metrics, in seconds. null: no metrics."
    )

    resource: dict[Annotated[str, Field(min_length=1, max_length=255)], str] = Field(
        default_factory=dict,
        max_length=32,
        description="Additional attributes of all traces and metrics, such as `deployment.environment.name`.",
    )

    @property
    def host(self) -> str:
        """The URL without the parts that may be secret."""
        parts = urlsplit(self.endpoint or "")
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
