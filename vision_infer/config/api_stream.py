"""Validate streams from the API. Permission to create a stream must not give access to local files or run code."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from vision_infer.config.secrets.secret_references import has_references
from vision_infer.config.serve import ServiceSettings, StreamSettings
from vision_infer.config.stream_url import Address, address_of, split_url
from vision_infer.config.validation_errors import SettingsError, ValidationProblem, problems_of

_FILE_ONLY = "is allowed in the configuration file only"
_REFERENCE = f"a reference ${{…}} {_FILE_ONLY}"


def stream_from_api(data: Mapping[str, Any], service: ServiceSettings, given: StreamSettings | None = None) -> StreamSettings:
    """Validate the settings of a stream. They contain no references and inherit no defaults.

    Args:
        data: The settings in the request.
        service: The settings that restrict URLs.
        given: Settings whose URLs and hook are allowed, because they do not come from the API.

    Raises:
        SettingsError: The settings are invalid; lists all problems, without secrets.
    """
    urls = ("detect", "url", "view", "degrade_detect")
    unread = [field for field in urls if isinstance(data.get(field), str) and has_references(data[field])]
    if unread:
        raise SettingsError([ValidationProblem((field,), _REFERENCE) for field in unread], "Write the complete URL.")
    try:
        settings = StreamSettings.model_validate(dict(data))
    except ValidationError as error:
        raise SettingsError(problems_of(error, StreamSettings), "") from None
    problems = api_problems(settings, service, given)
    if problems:
        urls_only = all(problem.location != ("hook",) for problem in problems)
        raise SettingsError(problems, "See service.allow_schemes and service.allow_networks." if urls_only else "")
    return settings


def api_problems(
    settings: StreamSettings, service: ServiceSettings, given: StreamSettings | None = None
) -> list[ValidationProblem]:
    """Return what is not allowed over the API in otherwise valid settings: schemes, addresses and hooks that are not ``given``.

    Host names are not resolved here: the code that connects compares their addresses with ``service.allow_networks``.
    """
    found: list[ValidationProblem] = []
    for field, url in (
        ("detect", settings.detect),
        ("view", settings.view),
        ("degrade_detect", settings.degrade_detect),
    ):
        known = None if given is None else getattr(given, field)
        message = "" if url is None or url == known else url_problem(url, service)
        if message:
            found.append(ValidationProblem((field,), message))
    if settings.hook and (given is None or settings.hook != given.hook):
        found.append(ValidationProblem(("hook",), f"runs code, and {_FILE_ONLY}"))
    return found


def url_problem(url: str, service: ServiceSettings) -> str:
    """Return why a URL is not allowed over the API; empty if it is. The text contains no part of the URL."""
    if has_references(url):
        return _REFERENCE
    try:
        parts = split_url(url)
    except ValueError as error:
        return str(error)
    if parts.scheme not in service.allow_schemes:
        return f"this scheme is not allowed over the API; the allowed ones are {', '.join(service.allow_schemes) or 'none'}"
    address = address_of(parts.host) if parts.host else None
    if address is not None and not is_allowed(address, service.allow_networks):
        return "its address is outside the allowed networks"
    return ""


def is_allowed(address: Address, networks: Sequence[str]) -> bool:
    """Return whether an address is in one of the networks. Without networks, every address is allowed."""
    return not networks or any(address in ipaddress.ip_network(network) for network in networks)
