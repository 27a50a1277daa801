"""The certificate of the HTTPS server."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vision_infer.config.settings_base import SettingsBase


class TlsSettings(SettingsBase):
    """The certificate and key of the HTTPS server."""

    certificate: Path = Field(description="The file of the certificate chain, PEM.")
    key: Path = Field(description="The file of the private key, PEM.")
