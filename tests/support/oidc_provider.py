"""A provider of OpenID Connect in the test process: discovery, authorization, tokens and keys over real HTTP."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

CLIENT, SECRET = "vision-infer", "the secret of the client"
Claims = dict[str, Any]


class OidcProvider:
    """A provider with one person; a test changes its attributes.

    Attributes:
        claims: The claims of the person.
        edit: Changes the claims of the next tokens.
        sign: Returns a token for claims; a test replaces it to forge tokens.
    """

    def __init__(self) -> None:
        self.now: Callable[[], float] = time.time
        self.asks = False
        """Whether a person must click on the page of the provider."""
        self.reset()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                provider._get(self)

            def do_POST(self) -> None:
                provider._post(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}/realms/site"

    def reset(self) -> None:
        """Undo the changes of a test."""
        self.claims: Claims = {"sub": "u-1", "email": "ada@example.org", "email_verified": True, "groups": ["security"]}
        self.edit: Callable[[Claims], Claims] = lambda claims: claims
        self.sign: Callable[[Claims], str] = self.signed
        self.document: Claims = {}
        self.requests: list[str] = []
        self.codes: dict[str, dict[str, str]] = {}
        self.keys_used = 0
        self.rotate()

    def rotate(self) -> None:
        """Replace the key."""
        self.keys_used += 1
        self.key = _rsa_key(self.keys_used)
        self.more_keys: list[Mapping[str, Any]] = []

    def signed(self, claims: Claims) -> str:
        """Return a token that is signed with the current key."""
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)

    def token(self, audience: str | list[str], **more: Any) -> str:
        """Return a token of the person for an audience."""
        now = int(self.now())
        claims = {"iss": self.issuer, "aud": audience, "iat": now, "exp": now + 300, **self.claims, **more}
        return self.sign(self.edit(claims))

    def public_keys(self) -> list[Mapping[str, Any]]:
        """Return the published keys."""
        return [self.key.as_dict(private=False), *self.more_keys]

    # HTTP

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        self.requests.append(f"GET {parts.path}")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match parts.path.removeprefix("/realms/site"):
            case "/.well-known/openid-configuration":
                self._answer(request, 200, self._document())
            case "/keys":
                self._answer(request, 200, {"keys": self.public_keys()})
            case "/authorize" if self.asks and "go" not in query:
                self._page(request, f"?{parts.query}&go=1")
            case "/authorize":
                self._redirect(request, f"{query['redirect_uri']}?{urlencode(self.authorize(query))}")
            case _:
                self._answer(request, 404, {})

    def _document(self) -> Claims:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "code_challenge_methods_supported": ["S256"],
            "id_token_signing_alg_values_supported": ["RS256"],
        } | self.document

    def authorize(self, query: dict[str, str]) -> dict[str, str]:
        """Return the query of the redirect to the service, with a code for it."""
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT
        assert query["code_challenge_method"] == "S256"
        assert len(query["code_challenge"]) == 43
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(8)
        self.codes[code] = query
        return {"code": code, "state": query["state"]}

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"POST {request.path}")
        form = parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode())
        values = {name: given[0] for name, given in form.items()}
        query = self.codes.pop(values.get("code", ""), None)
        basic = base64.b64encode(urlencode({CLIENT: SECRET}).replace("=", ":").encode()).decode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(values.get("code_verifier", "").encode()).digest()).rstrip(b"=")
        if request.path != "/realms/site/token" or query is None or query["code_challenge"] != challenge.decode():
            self._answer(request, 400, {"error": "invalid_grant", "error_description": "<script>"})
        elif request.headers.get("Authorization") != f"Basic {basic}":
            self._answer(request, 401, {"error": "invalid_client"})
        else:
            assert values["redirect_uri"] == query["redirect_uri"]
            token = self.token(CLIENT, nonce=query["nonce"])
            self._answer(request, 200, {"access_token": "opaque", "token_type": "Bearer", "id_token": token})

    @staticmethod
    def _answer(request: BaseHTTPRequestHandler, status: int, values: Claims) -> None:
        data = json.dumps(values).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    @staticmethod
    def _page(request: BaseHTTPRequestHandler, target: str) -> None:
        data = f'<!doctype html><title>Provider</title><a href="{target.replace("&", "&amp;")}">Continue as Ada</a>'.encode()
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    @staticmethod
    def _redirect(request: BaseHTTPRequestHandler, target: str) -> None:
        request.send_response(302)
        request.send_header("Location", target)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def __enter__(self) -> OidcProvider:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


@functools.cache
def _rsa_key(number: int) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": f"key-{number}", "use": "sig", "alg": "RS256"})


def unsigned(claims: Claims) -> str:
    """Return a token with the algorithm none."""
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    return ".".join(base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=").decode() for one in parts) + "."


def signed_by_public_key(provider: OidcProvider) -> Callable[[Claims], str]:
    """Return a function that signs with HMAC, with the public key as the shared secret (algorithm confusion)."""

    def sign(claims: Claims) -> str:
        parts = [json.dumps(one).encode() for one in ({"alg": "HS256", "kid": provider.key.kid}, claims)]
        text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
        digest = hmac.digest(provider.key.as_pem(private=False), text, "sha256")
        return (text + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()

    return sign


def signed_by_stranger(provider: OidcProvider, kid: str | None = None) -> Callable[[Claims], str]:
    """Return a function that signs with a key that the provider does not publish."""
    key = _rsa_key(0)
    return lambda claims: jwt.encode({"alg": "RS256", "kid": kid or provider.key.kid}, claims, key)


def elliptic_key(kid: str) -> ECKey:
    """Return a key of another type."""
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig"})
