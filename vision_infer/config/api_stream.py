"""Streams that come over the API: whoever may make one may not thereby read this machine's files, or run code on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from vision_infer.config.network_ranges import address_of, is_allowed
from vision_infer.config.references import has_references
from vision_infer.config.serve import ServiceSettings, StreamSettings
from vision_infer.config.stream_url import split_url
from vision_infer.config.validation_errors import SettingsError, ValidationProblem, mistakes_of

_FILE_ONLY = "stands in the configuration file only"
_REFERENCE = f"a reference ${{…}} {_FILE_ONLY}"


def stream_from_api(data: Mapping[str, Any], service: ServiceSettings) -> StreamSettings:
    """Check the settings of a stream. Nothing in them is replaced from the environment or from files, and they inherit nothing.

    Args:
        data: as it came.
        service: which URLs are taken.

    Raises:
        SettingsError: with all that is wrong; holds no secret.
    """
    urls = ("detect", "url", "view", "degrade_detect")
    unread = [field for field in urls if isinstance(data.get(field), str) and has_references(data[field])]
    if unread:
        raise SettingsError([ValidationProblem((field,), _REFERENCE) for field in unread], "write the URL as it is")
    try:
        settings = StreamSettings.model_validate(dict(data))
    except ValidationError as error:
        raise SettingsError(mistakes_of(error, StreamSettings), "") from None
    mistakes = api_mistakes(settings, service)
    if mistakes:
        raise SettingsError(mistakes, "see allow_schemes and allow_networks of the service")
    return settings


def api_mistakes(settings: StreamSettings, service: ServiceSettings) -> list[ValidationProblem]:
    """What is not allowed over the API in settings that are valid otherwise: kinds and places of URLs, and hooks.

    Names of hosts are not looked up: whoever connects compares their addresses with ``service.allow_networks``.
    """
    found: list[ValidationProblem] = []
    for field, url in (
        ("detect", settings.detect),
        ("view", settings.view),
        ("degrade_detect", settings.degrade_detect),
    ):
        message = "" if url is None else url_mistake(url, service)
        if message:
            found.append(ValidationProblem((field,), message))
    if settings.hook is not None:
        found.append(ValidationProblem(("hook",), f"is code, and {_FILE_ONLY}"))
    return found


def url_mistake(url: str, service: ServiceSettings) -> str:
    """Why a URL is not taken over the API; empty where it is. Holds no part of the URL."""
    if has_references(url):
        return _REFERENCE
    try:
        parts = split_url(url)
    except ValueError as error:
        return str(error)
    if parts.scheme not in service.allow_schemes:
        return f"a URL of this kind is not taken over the API: there are {', '.join(service.allow_schemes) or 'none'}"
    address = address_of(parts.host) if parts.host else None
    if address is not None and not is_allowed(address, service.allow_networks):
        return "its address is in none of the networks that are allowed"
    return ""
