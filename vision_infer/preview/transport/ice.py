"""The ICE servers of viewers and of the service, with short-lived credentials for TURN servers that share a secret."""

from __future__ import annotations

import base64
import hashlib
import hmac

from pydantic import SecretStr

from vision_infer.config.preview import IceServer

LIFETIME_S = 12 * 3600
"""The lifetime of short-lived credentials in seconds. A TURN server checks it when a connection starts."""


def with_credentials(server: IceServer, wall_ns: int) -> IceServer:
    """Return a server with a user name and password that expire, if it has a shared secret; else the server itself.

    The form is that of the TURN REST API (draft-uberti-behave-turn-rest), which coturn calls ``use-auth-secret``.

    Args:
        wall_ns: The current time, nanoseconds since 1970 (UTC).
    """
    if server.secret is None:
        return server
    username = f"{wall_ns // 10**9 + LIFETIME_S}:vision-infer"
    digest = hmac.digest(server.secret.get_secret_value().encode(), username.encode(), hashlib.sha1)
    credential = SecretStr(base64.b64encode(digest).decode())
    return server.model_copy(update={"username": username, "credential": credential, "secret": None})


def link_header(servers: tuple[IceServer, ...], wall_ns: int) -> str:
    """Return the value of the ``Link`` header for players, as the WHEP draft defines it; empty without servers.

    Servers with a permanent password are left out: a viewer could keep the password.
    """
    links = []
    for server in servers:
        if server.credential is not None:
            continue
        ready = with_credentials(server, wall_ns)
        link = f'<{ready.url}>; rel="ice-server"'
        if ready.credential is not None:
            password = ready.credential.get_secret_value()
            link += f'; username="{ready.username}"; credential="{password}"; credential-type="password"'
        links.append(link)
    return ", ".join(links)
