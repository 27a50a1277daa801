"""Access for teams: roles with cameras, single sign-on (OpenID Connect), API tokens of persons, and the audit log."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from vision_infer.config.settings_base import SettingsBase
from vision_infer.config.zones import Name

Level: TypeAlias = Literal["view", "operator", "admin"]
"""What a role may do; each level includes the ones before."""


def is_secure_url(url: str) -> bool:
    """Return whether a URL uses HTTPS, or HTTP on a loopback address, which does not leave this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment or re.search(r"[\s\x00-\x1f\x7f]", url):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and (host == "localhost" or _is_loopback(host)))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _url(url: str) -> str:
    if not is_secure_url(url) or urlsplit(url).query:
        raise ValueError("must be an https:// URL without user name, query and fragment; http:// only on loopback")
    return url


def _role(value: object) -> object:
    return {"cameras": value} if isinstance(value, list | tuple) else value


class RoleSettings(SettingsBase):
    """What a role may do, and with which cameras."""

    level: Level = Field(
        default="view",
        description="What the role may do. view: read and watch. operator: also switch models and reset counts. admin: also "
        "change and remove cameras, but not their URLs; without `cameras`, everything.",
    )
    cameras: tuple[Name, ...] | None = Field(
        default=None,
        max_length=10_000,
        description="The streams that the role sees. For all others, the service answers as if they did not exist. Endpoints "
        "about the whole service, such as /metrics, are then not allowed. null: all streams.",
    )


Role = Annotated[RoleSettings, BeforeValidator(_role, json_schema_input_type=RoleSettings | tuple[Name, ...])]
RoleName = Annotated[str, Field(min_length=1, max_length=64)]
Claim = Annotated[str, Field(min_length=1, max_length=256)]


class OidcSettings(SettingsBase):
    """Login through a provider of OpenID Connect."""

    issuer: Annotated[str, AfterValidator(_url)] = Field(description="The URL of the provider, exactly as it names itself.")
    client_id: str = Field(min_length=1, max_length=512, description="The client id of this service at the provider.")
    client_secret: SecretStr | None = Field(
        default=None, min_length=1, description="The client secret. null: a public client, protected by PKCE alone."
    )
    page: Annotated[str, AfterValidator(_url)] = Field(
        description="The URL of the page in browsers, such as https://cameras.example.org/. Register this URL followed by "
        "`api/v1/oidc/callback` as the redirect URI."
    )
    scopes: tuple[Claim, ...] = Field(default=("openid", "profile", "email"), description="The scopes to request.")
    groups_claim: Claim = Field(default="groups", description="The claim with the groups of a person; a dot separates levels.")
    groups: dict[Claim, RoleName] = Field(
        default_factory=dict, max_length=1000, description="The role by group. The first entry that a person has applies."
    )
    users: dict[Claim, RoleName] = Field(
        default_factory=dict,
        max_length=10_000,
        description="The role by person: a verified e-mail address, or the `sub` claim (without `@`). Applies before `groups`.",
    )
    audience: Claim | None = Field(
        default=None,
        description="The audience of access tokens (JWT) of the provider, which programs send as bearer tokens over HTTP. null: "
        "none are accepted.",
    )

    @model_validator(mode="after")
    def _asks_for_openid(self) -> OidcSettings:
        if "openid" not in self.scopes:
            raise ValueError("scopes: must contain openid")
        return self

    @property
    def page_url(self) -> str:
        """The URL of the page, with a slash at the end."""
        return self.page.rstrip("/") + "/"

    @property
    def redirect_uri(self) -> str:
        """The URL to which the provider sends the browser after a login."""
        return f"{self.page_url}api/v1/oidc/callback"


class AuditSettings(SettingsBase):
    """The log of changes and logins."""

    file: Path | None = Field(default=None, description="The file, JSON Lines. Defaults to audit.jsonl in the state folder.")
    rotate_mb: float = Field(default=10.0, gt=0, le=10_000, description="Start a new file after this size, in megabytes.")
    keep: int = Field(default=20, ge=0, le=10_000, description="The number of rotated files to keep.")


class AccessSettings(SettingsBase):
    """Users and roles. If this is set, the service requires a token or a login, also on loopback."""

    roles: dict[Name, Role] = Field(
        default_factory=dict,
        max_length=100,
        description="The roles by name, in addition to view, operator and admin, which see all streams. A list is short for a "
        "role of level view with these `cameras`. `service.view_token` has the role view.",
    )
    oidc: OidcSettings | None = Field(default=None, description="Single sign-on. null: tokens only.")
    token_days: float = Field(default=90, gt=0, le=366, description="The maximum lifetime of API tokens of persons, in days.")
    audit: AuditSettings = Field(default=AuditSettings(), description="The file of the audit log, and its rotation.")

    @model_validator(mode="after")
    def _known_roles(self) -> AccessSettings:
        if "admin" in self.roles:
            raise ValueError("roles.admin: always has all rights; choose another name")
        known = {"view", "operator", "admin", *self.roles}
        for kind in ("groups", "users"):
            for name, role in {} if self.oidc is None else getattr(self.oidc, kind).items():
                if role not in known:
                    raise ValueError(f"oidc.{kind}: there is no role named {role}, which {name[:80]} has")
        return self

    def role(self, name: str) -> RoleSettings | None:
        """Return a role by its name; None if there is no such role."""
        found = self.roles.get(name)
        if found is None and name in ("view", "operator", "admin"):
            return RoleSettings.model_validate({"level": name})
        return found
