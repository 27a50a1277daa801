"""A stream's settings as they are shown, and as they come back: passwords in URLs are never shown."""

from __future__ import annotations

from urllib.parse import urlsplit

from vision_infer.config.serve import ServiceSettings, StreamSettings
from vision_infer.core.errors import UsageError
from vision_infer.stream.redact import redact

_URLS = ("detect", "view")


def to_public(settings: StreamSettings) -> StreamSettings:
    """The same settings with ``***`` for the passwords of the URLs."""
    shown = {field: redact(url) for field in _URLS if (url := getattr(settings, field)) is not None}
    return settings.model_copy(update=shown)


def from_api(given: StreamSettings, before: StreamSettings | None, service: ServiceSettings) -> StreamSettings:
    """Settings that came over the API, with the passwords of the ones before where they came back hidden.

    Args:
        given: what came.
        before: the settings of the stream that it replaces.
        service: which URLs are taken.

    Raises:
        UsageError: a URL of a kind that is not taken, a hidden password that we do not know, or a hook.
    """
    if given.hook is not None and (before is None or before.hook != given.hook):
        raise UsageError("hook: is code, and is set in the service's file only", "leave it out")
    kept: dict[str, str] = {}
    for field in _URLS:
        url = getattr(given, field)
        if url is None:
            continue
        old = None if before is None else getattr(before, field)
        if old is not None and url in (old, redact(old)):
            kept[field] = old
        elif "***" in url:
            raise UsageError(
                f"{field}: its password is hidden, and is not that of the URL before", "write the URL with the password"
            )
        else:
            _check_scheme(field, url, service)
    return given.model_copy(update=kept)


def _check_scheme(field: str, url: str, service: ServiceSettings) -> None:
    try:
        scheme = urlsplit(url).scheme.lower() if "://" in url else ""
    except ValueError:
        scheme = ""
    if scheme not in service.allow_schemes:
        raise UsageError(f"{field}: a URL of this kind is not taken over the API", f"one of {', '.join(service.allow_schemes)}")
