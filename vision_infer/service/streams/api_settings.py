"""A stream's settings as the API shows and accepts them: passwords in URLs are never shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vision_infer.config.api_stream import stream_from_api
from vision_infer.config.serve import ServiceSettings, StreamSettings
from vision_infer.config.validation_errors import SettingsError, ValidationProblem
from vision_infer.stream.redact import redact

_HIDDEN = "***"
_URLS = {"detect": "detect", "url": "detect", "view": "view", "degrade_detect": "degrade_detect"}
"""The names of URL settings in requests, and the fields that they set."""


def to_public(settings: StreamSettings) -> StreamSettings:
    """Return the settings with ``***`` in place of the passwords in URLs."""
    urls = {field: getattr(settings, field) for field in sorted(set(_URLS.values()))}
    return settings.model_copy(update={field: redact(url) for field, url in urls.items() if url is not None})


def from_api(
    data: Mapping[str, Any], before: StreamSettings | None, service: ServiceSettings, given: StreamSettings | None = None
) -> StreamSettings:
    """Validate settings from the API. A URL that was shown with ``***`` is replaced with the stored URL.

    Args:
        data: The settings in the request.
        before: The current settings of the stream, if it exists.
        service: The settings that restrict URLs.
        given: The settings from the command line, if the stream comes from there: their URLs are allowed.

    Raises:
        SettingsError: The settings are invalid; the error lists all problems and contains no secrets.
    """
    settings = dict(data)
    for name, field in _URLS.items():
        url = settings.get(name)
        if not isinstance(url, str) or _HIDDEN not in url:
            continue
        known = None if before is None else getattr(before, field)
        if known is None or url != redact(known):
            problem = ValidationProblem((name,), "the password is hidden, but the URL differs from the stored one")
            raise SettingsError([problem], "Write the URL with its password.")
        settings[name] = known
    return stream_from_api(settings, service, given)
