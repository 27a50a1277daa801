"""The check of single sign-on in ``vision-infer doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from vision_infer.config.access.settings import AccessSettings
from vision_infer.core.finding import Finding
from vision_infer.core.packages import install


def check_provider(access: AccessSettings | None) -> Iterator[Finding]:
    """Read the discovery document and the keys of the provider, and say what is wrong."""
    if access is None or access.oidc is None:
        return
    oidc = access.oidc
    missing = next((name for name in ("joserfc", "httpx") if find_spec(name) is None), None)
    if missing is not None:
        yield Finding("access", "error", f"access.oidc needs the package {missing}", install("oidc"))
        return
    import asyncio

    from vision_infer.service.http.access.oidc import ProviderError, discover

    try:
        provider = asyncio.run(discover(oidc))
    except ProviderError as error:
        yield Finding("access", "error", error.message, error.hint)
        return
    count = len(provider.keys.keys)
    yield Finding("access", "ok", f"{oidc.issuer}: {count} key{'s' * (count != 1)}; redirect URI {oidc.redirect_uri}")
    if "S256" not in provider.methods:
        text = f"{oidc.issuer}: does not announce PKCE with S256"
        yield Finding("access", "warning", text, "Enable PKCE for the client, or check that the provider ignores it.")
    if not oidc.groups and not oidc.users:
        yield Finding("access", "warning", "access.oidc: no group or person has a role", "Add groups: or users:.")
