"""OpenID Connect: a login with authorization code and PKCE, and access tokens of the provider.

Specifications: OpenID Connect Core 1.0 and Discovery 1.0, RFC 7636 (PKCE), RFC 7519 (JWT), RFC 9068 (access tokens).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import math
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet

from vision_infer.config.access.settings import AccessSettings, OidcSettings, is_secure_url
from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.service.http.access.principal import Principal, with_role

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""The accepted signatures: only those of public keys, so that a public key is never used as a shared secret."""
LEEWAY_S = 60
"""The maximum difference between the clocks of the provider and of this service, seconds."""
LOGIN_S = 600
"""The maximum duration of a login at the provider, seconds."""
MAX_ANSWER_BYTES, ANSWER_S = 1_000_000, 10.0
REFRESH_NS = 3600 * 1_000_000_000
"""The time after which discovery document and keys are read again, nanoseconds."""
RETRY_NS = 30 * 1_000_000_000
"""The minimum time between two reads, nanoseconds: unknown keys in forged tokens must not cause requests."""
_log = logging.getLogger("vision_infer.http")


class ProviderError(VisionInferError):
    """The provider does not answer, or its answer is not valid."""


class LoginRefusedError(VisionInferError):
    """A login or token is not valid, or the person has no role."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What the provider publishes."""

    authorize: str
    token: str
    keys: KeySet
    basic: bool
    """Whether the client secret is sent by HTTP Basic; else in the form."""
    methods: tuple[str, ...]
    """The methods of PKCE that it announces."""


async def discover(settings: OidcSettings) -> Provider:
    """Read the discovery document and the keys.

    Raises:
        ProviderError: They cannot be read, or are not valid.
    """
    url = f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration"
    found = await fetch("GET", url)
    if found.get("issuer") != settings.issuer:
        raise ProviderError(f"{url}: the provider names itself {found.get('issuer')!r:.200}", "Set access.oidc.issuer to it.")
    addresses = [found.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
    for name, address in zip(("authorization_endpoint", "token_endpoint", "jwks_uri"), addresses, strict=True):
        if not isinstance(address, str) or not is_secure_url(address):
            raise ProviderError(f"{url}: {name} is missing or is not an https:// URL", "Check the provider.")
    authorize, token, keys_url = (str(address) for address in addresses)
    published = (await fetch("GET", keys_url)).get("keys")
    keys = KeySet(_public_keys(published if isinstance(published, list) else []))
    if not keys:
        raise ProviderError(f"{keys_url}: has no public key for signatures", "Check the provider.")
    ways = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    methods = tuple(str(one) for one in found.get("code_challenge_methods_supported") or ())
    return Provider(authorize, token, keys, "client_secret_basic" in ways, methods)


def _public_keys(published: list[Any]) -> list[Key]:
    """Return the keys for signatures. Others are left out, in particular shared secrets."""
    keys: list[Key] = []
    for one in published[:50]:
        if isinstance(one, dict) and one.get("kty") in ("RSA", "EC") and one.get("use", "sig") == "sig":
            with suppress(JoseError, ValueError, TypeError):
                keys.append(JWKRegistry.import_key(one))
    return keys


async def fetch(method: str, url: str, form: Mapping[str, str] | None = None, login: tuple[str, str] | None = None) -> Any:
    """Send a request to the provider; return the JSON object of its answer. Redirects are not followed.

    Raises:
        ProviderError: It does not answer in time, or not with a JSON object and status 200.
    """
    try:
        async with asyncio.timeout(ANSWER_S), httpx.AsyncClient(timeout=ANSWER_S) as client:
            accept = {"Accept": "application/json"}
            async with client.stream(method, url, data=form, auth=login, headers=accept) as response:
                content = b""
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > MAX_ANSWER_BYTES:
                        raise ProviderError(f"{url}: the answer is too large", "Check the provider.")
        answer = json.loads(content) if response.status_code == 200 or form is not None else {}
    except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
        hint = "Check its address and certificate, and the network."
        raise ProviderError(f"{url}: does not answer: {str(error)[:200] or type(error).__name__}", hint) from None
    except (ValueError, RecursionError):
        answer = None
    if response.status_code != 200 or not isinstance(answer, dict):
        code = answer.get("error") if isinstance(answer, dict) else None  # such as invalid_grant (RFC 6749, section 5.2)
        why = f": {code[:64]!a}" if isinstance(code, str) else ""
        raise ProviderError(f"{url}: answered with status {response.status_code}{why}", "Check the provider's log.")
    return answer


class Oidc:
    """Logins and tokens of one provider. Only the event loop may use it.

    Args:
        access: The settings, with a provider.
        clock: The source of time.
    """

    def __init__(self, access: AccessSettings, clock: Clock) -> None:
        assert access.oidc is not None
        self._access = access
        self.settings = access.oidc
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._provider: Provider | None = None
        self._error: ProviderError | None = None
        self._read_ns: int | None = None
        self._lock = asyncio.Lock()  # held while the provider is asked: one read serves all requests that wait

    async def provider(self, refresh: bool = False) -> Provider:
        """Return what the provider publishes; after a failure, it is asked again after ``RETRY_NS``.

        Args:
            refresh: Whether a key was unknown.

        Raises:
            ProviderError: It cannot be read.
        """
        if not refresh and self._provider is not None and self._age_ns() < REFRESH_NS:
            return self._provider
        async with self._lock:
            age_ns = self._age_ns()
            known = self._provider is not None and not refresh
            if age_ns >= (REFRESH_NS if known else RETRY_NS):
                self._read_ns = self._clock.monotonic_ns()
                try:
                    self._provider, self._error = await discover(self.settings), None
                except ProviderError as error:
                    self._error = error
                    _log.warning("single sign-on: %s", error)
            if self._provider is None:  # old keys are better than none
                assert self._error is not None
                raise self._error
            return self._provider

    def _age_ns(self) -> float:
        return math.inf if self._read_ns is None else self._clock.monotonic_ns() - self._read_ns

    # Login of a browser

    def begin(self) -> str:
        """Return a new secret for the cookie that binds a login to a browser. Nothing is stored."""
        return f"{self._clock.wall_ns() // 10**9}.{secrets.token_urlsafe(32)}"

    def _derived(self, purpose: str, cookie: str) -> str:
        """Return a value that only this process can derive from a cookie."""
        digest = hmac.digest(self._secret, f"{purpose} {cookie}".encode("utf-8", "surrogatepass"), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    async def address(self, cookie: str) -> str:
        """Return the URL of the provider to which the browser goes.

        Raises:
            ProviderError: The provider cannot be asked.
        """
        verifier = self._derived("verifier", cookie)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        endpoint = (await self.provider()).authorize
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self.settings.redirect_uri,
            "scope": " ".join(self.settings.scopes),
            "state": self._derived("state", cookie),
            "nonce": self._derived("nonce", cookie),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def finish(self, cookie: str, state: str, code: str) -> Principal:
        """Return who has logged in.

        Args:
            cookie: The cookie of the browser.
            state: The state that the provider returned.
            code: The authorization code.

        Raises:
            LoginRefusedError: The login does not belong to this browser, is too old, or the person has no role.
            ProviderError: The provider does not accept the code, or does not answer.
        """
        begun, _, _ = cookie.partition(".")
        if not hmac.compare_digest(state.encode("utf-8", "replace"), self._derived("state", cookie).encode()):
            raise LoginRefusedError("this browser did not begin the login", "Log in again.")
        if not 0 <= self._clock.wall_ns() // 10**9 - int(begun) <= LOGIN_S:  # the state has verified it
            raise LoginRefusedError("the login took too long", "Log in again.")
        provider, settings = await self.provider(), self.settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": settings.redirect_uri,
            "code_verifier": self._derived("verifier", cookie),
        }
        secret = None if settings.client_secret is None else settings.client_secret.get_secret_value()
        basic = None
        if secret is not None and provider.basic:  # RFC 6749, section 2.3.1: both are form-encoded first
            basic = (urlencode({"": settings.client_id})[1:], urlencode({"": secret})[1:])
        else:
            form |= {"client_id": settings.client_id} | ({} if secret is None else {"client_secret": secret})
        answer = await fetch("POST", provider.token, form, basic)
        claims = await self._claims(str(answer.get("id_token", "")), settings.client_id)
        if claims.get("azp", settings.client_id) != settings.client_id:
            raise LoginRefusedError("the ID token was issued to another client")
        if not hmac.compare_digest(str(claims.get("nonce")).encode("utf-8", "replace"), self._derived("nonce", cookie).encode()):
            raise LoginRefusedError("the ID token belongs to another login", "Log in again.")
        return self._principal(claims)

    # Tokens

    async def bearer(self, token: str) -> Principal:
        """Return who sends an access token.

        Raises:
            LoginRefusedError: The token is not valid, or the person has no role.
            ProviderError: The keys of the provider cannot be read.
        """
        if self.settings.audience is None:
            raise LoginRefusedError("tokens of the provider are not accepted", "See access.oidc.audience.")
        claims = await self._claims(token, self.settings.audience)
        if "nonce" in claims or claims.get("typ") in ("ID", "Refresh", "Logout"):
            raise LoginRefusedError("this is not an access token")
        return self._principal(claims).ending(round((claims["exp"] + LEEWAY_S) * 1e9), self._clock)

    async def _claims(self, token: str, audience: str) -> Mapping[str, Any]:
        """Return the claims of a valid token.

        Raises:
            LoginRefusedError: It is not valid.
            ProviderError: The keys cannot be read.
        """
        provider = await self.provider()
        try:
            found = jwt.decode(token, provider.keys, list(ALGORITHMS))
        except (JoseError, ValueError, TypeError, KeyError):
            refreshed = await self.provider(refresh=True)  # the provider may have new keys
            try:
                found = jwt.decode(token, refreshed.keys, list(ALGORITHMS))
            except (JoseError, ValueError, TypeError, KeyError) as error:
                raise LoginRefusedError(f"the signature of the token is not valid: {type(error).__name__}") from None
        claims = found.claims
        self._check(claims, audience)
        return claims

    def _check(self, claims: Mapping[str, Any], audience: str) -> None:
        now_s = self._clock.wall_ns() / 1e9
        if claims.get("iss") != self.settings.issuer:
            raise LoginRefusedError("the token is of another issuer")
        audiences = claims.get("aud")
        if audience not in (audiences if isinstance(audiences, list) else [audiences]):
            raise LoginRefusedError("the token is for another audience")
        for name, sign in (("exp", 1), ("nbf", -1), ("iat", -1)):
            value = claims.get(name)
            if value is None and name != "exp":
                continue
            if (
                not isinstance(value, int | float)
                or isinstance(value, bool)
                or not (abs(value) < 1e11 and sign * (value - now_s) > -LEEWAY_S)
            ):
                raise LoginRefusedError(f"the token is not valid at this time ({name})", "Check the clocks.")
        if not isinstance(claims.get("sub"), str) or not 0 < len(claims["sub"]) <= 255:
            raise LoginRefusedError("the token names no person")

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        """Return the person with its role.

        Raises:
            LoginRefusedError: It has none.
        """
        subject: str = claims["sub"]
        email = claims.get("email") if claims.get("email_verified") is True else None
        shown = next((one for one in (email, claims.get("preferred_username")) if isinstance(one, str) and one), subject)[:100]
        shown = "".join(one if one.isprintable() else "?" for one in shown)  # it appears in logs
        # At many providers, persons choose their names: one that looks like an address must not match an entry of `users`.
        key = subject if "@" not in subject else None
        role = self.settings.users.get(key or "") or self.settings.users.get(email if isinstance(email, str) else "")
        if role is None:
            held: Any = claims
            for step in self.settings.groups_claim.split("."):
                held = held.get(step) if isinstance(held, dict) else None
            held = held if isinstance(held, list) else [held]
            role = next((role for group, role in self.settings.groups.items() if group in held), None)
        rights = None if role is None else self._access.role(role)
        if role is None or rights is None:
            raise LoginRefusedError(f"{shown} has no role in this service", "Ask an admin to add the person or a group.")
        return with_role(shown, f"oidc:{subject}", role, rights, "oidc")
