"""A stream's settings as they are shown, and as they come back: passwords in URLs are never shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vision_infer.config.api_stream import stream_from_api
from vision_infer.config.serve import ServiceSettings, StreamSettings
from vision_infer.config.validation_errors import SettingsError, ValidationProblem
from vision_infer.stream.redact import redact

_HIDDEN = "***"
_URLS = {"detect": "detect", "url": "detect", "view": "view", "degrade_detect": "degrade_detect"}
"""names under which URLs come, and the fields that they are"""


def to_public(settings: StreamSettings) -> StreamSettings:
    """The same settings with ``***`` for the passwords of the URLs."""
    urls = {field: getattr(settings, field) for field in sorted(set(_URLS.values()))}
    return settings.model_copy(update={field: redact(url) for field, url in urls.items() if url is not None})


def from_api(data: Mapping[str, Any], before: StreamSettings | None, service: ServiceSettings) -> StreamSettings:
    """Check settings that came over the API. A URL that comes back as it was shown is the one that we know.

    Args:
        data: what came.
        before: the settings of the stream that is replaced.
        service: which URLs are taken.

    Raises:
        SettingsError: with all that is wrong; holds no secret.
    """
    whole = dict(data)
    for name, field in _URLS.items():
        url = whole.get(name)
        if not isinstance(url, str) or _HIDDEN not in url:
            continue
        known = None if before is None else getattr(before, field)
        if known is None or url != redact(known):
            mistake = ValidationProblem((name,), "its password is hidden, and it is not the URL that was there before")
            raise SettingsError([mistake], "write the URL with its password")
        whole[name] = known
    return stream_from_api(whole, service)
