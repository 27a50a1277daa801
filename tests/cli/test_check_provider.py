"""The check of single sign-on in ``vision-infer doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.oidc_provider import OidcProvider
from vision_infer.cli.access.check_provider import check_provider
from vision_infer.config.access.settings import AccessSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.config.validation_errors import SettingsError
from vision_infer.config.warnings import warnings_of
from vision_infer.core.finding import Finding


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with OidcProvider() as running:
        yield running


def found(provider: OidcProvider, **values: Any) -> list[Finding]:
    oidc = {"issuer": provider.issuer, "client_id": "a", "page": "https://cameras.example.org", "groups": {"a": "view"}}
    return list(check_provider(AccessSettings.model_validate({"oidc": oidc | values})))


def test_nothing_is_checked_without_a_provider() -> None:
    assert list(check_provider(None)) == []
    assert list(check_provider(AccessSettings())) == []


def test_a_provider_that_works(provider: OidcProvider) -> None:
    (finding,) = found(provider)
    assert finding.severity == "ok"
    assert finding.text == f"{provider.issuer}: 1 key; redirect URI https://cameras.example.org/api/v1/oidc/callback"


@pytest.mark.parametrize(
    ("document", "values", "severity", "text"),
    [
        ({"issuer": "https://other.example.org"}, {}, "error", "names itself 'https://other.example.org'"),
        ({"token_endpoint": "http://login.example.org/token"}, {}, "error", "token_endpoint is missing or is not an https"),
        ({"jwks_uri": None}, {}, "error", "jwks_uri is missing"),
        ({"code_challenge_methods_supported": ["plain"]}, {}, "warning", "PKCE"),
        ({}, {"groups": {}}, "warning", "no group or person has a role"),
        ({}, {"issuer": "http://127.0.0.1:1/realms/site"}, "error", "does not answer"),
    ],
)
def test_what_is_wrong(provider: OidcProvider, document: Any, values: Any, severity: str, text: str) -> None:
    provider.document = document
    finding = found(provider, **values)[-1]
    provider.document = {}
    assert finding.severity == severity
    assert text in finding.text
    assert finding.hint


def test_a_wrong_path_is_reported_with_its_status(provider: OidcProvider) -> None:
    (finding,) = found(provider, issuer=provider.issuer.removesuffix("/site"))
    assert "answered with status 404" in finding.text


def test_only_shared_secrets_are_not_enough(provider: OidcProvider) -> None:
    key = provider.key
    provider.public_keys = lambda: [{"kty": "oct", "k": "AAAA"}, {"kty": "RSA"}, 7]  # type: ignore[method-assign,list-item]
    try:
        assert "has no public key for signatures" in found(provider)[-1].text
    finally:
        del provider.public_keys
    assert provider.key is key


def test_settings_are_reported_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text(
        "access:\n  roles:\n    viewer: [door, gate]\n    shift: {level: boss}\n  token_days: 999\n"
        "streams:\n  door: {url: 'test://'}\n"
    )
    with pytest.raises(SettingsError) as error:
        load_settings(file, [], {}, {})
    problems = [str(problem) for problem in error.value.problems]
    assert [problem.partition("cameras.yaml: ")[2] for problem in problems] == [
        "line 4: access.roles.shift.level: must be view or operator or admin",
        "line 5: access.token_days: must be less than or equal to 366, got 999",
    ]
    file.write_text("access: {roles: {viewer: [door, gate]}}\nstreams: {door: {url: 'test://'}}\n")
    assert warnings_of(load_settings(file, [], {}, {})) == [
        "access.roles.viewer: this file has no stream named gate; the API may add it"
    ]
