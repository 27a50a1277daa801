"""API tokens of persons: create, list and revoke them."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from vision_infer.core.result import utc
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.access.api_tokens import ApiToken
from vision_infer.service.http.api_models import ApiModel
from vision_infer.service.http.context import Client, Context, Shared
from vision_infer.service.http.openapi import problems
from vision_infer.service.http.problem import Problem

router = APIRouter(prefix="/api/v1", tags=["session"])
DAY_S = 86_400
_TEXT = r"^[^\x00-\x1f\x7f]*$"


class TokenRequest(BaseModel):
    """A new API token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    person: str | None = Field(
        default=None, min_length=1, max_length=100, pattern=_TEXT, description="The person. Others than oneself require an admin."
    )
    role: str | None = Field(
        default=None, min_length=1, max_length=64, description="The role. Others than one's own require an admin."
    )
    days: float = Field(gt=0, le=366, description="The lifetime in days, at most `access.token_days`.")
    note: str = Field(default="", max_length=200, pattern=_TEXT, description="What the token is for.")


class TokenAnswer(ApiModel):
    """An API token, without its secret."""

    id: str
    person: str
    role: str
    note: str
    created: str = Field(description="The time of creation (UTC).")
    expires: str = Field(description="The end of its validity (UTC).")


class NewTokenAnswer(TokenAnswer):
    """A new API token with its secret."""

    token: str = Field(description="The secret. It is shown only once; the service stores only its hash.")


def _access(context: Context) -> Access:
    if context.security.access is None:
        raise Problem("not-found", "API tokens are disabled; see the setting access")
    return context.security.access


@router.get("/tokens", responses=problems(404))
async def list_tokens(client: Client, context: Shared) -> list[TokenAnswer]:
    """List the API tokens of the client; for an admin, those of all persons. Expired ones are left out."""
    return [TokenAnswer(**_fields(token)) for token in _access(context).tokens.all() if _may_see(client, token)]


@router.post("/tokens", status_code=201, responses=problems(403, 404, 409, 415, 422, 507))
async def create_token(wanted: TokenRequest, request: Request, client: Client, context: Shared) -> NewTokenAnswer:
    """Create an API token: as a person who has logged in through the provider, or with `service.token`."""
    access = _access(context)
    if client.proof != "oidc" and not (client.proof == "token" and client.manages):  # tokens must not outlive a shared token
        raise Problem("forbidden", "only a person who has logged in, or service.token, can create API tokens")
    role = wanted.role or client.role
    if not client.manages and (wanted.person not in (None, client.name) or role != client.role):
        raise Problem("forbidden", "tokens for other persons or roles require an admin")
    if access.settings.role(role) is None:
        raise Problem("invalid", "role: there is no role with this name; see access.roles")
    if wanted.days > access.settings.token_days:
        raise Problem("invalid", f"days: at most {access.settings.token_days:g} are allowed; see access.token_days")
    own = wanted.person in (None, client.name)
    person, subject = (client.name, client.subject) if own else (str(wanted.person), f"person:{wanted.person}")
    create = access.tokens.create
    token, secret = await to_thread.run_sync(create, person, subject, role, wanted.note, wanted.days * DAY_S)
    request.scope["state"]["target"] = f"{token.id} {role} {person}"
    return NewTokenAnswer(**_fields(token), token=secret)


@router.delete("/tokens/{token_id}", status_code=204, responses=problems(403, 404, 507))
async def revoke_token(
    token_id: Annotated[str, Path(max_length=64, description="The id of the token.")], client: Client, context: Shared
) -> None:
    """Revoke an API token. Its sessions and connections end at once."""
    access, security = _access(context), context.security
    token = next((one for one in access.tokens.all() if one.id == token_id and _may_see(client, one)), None)
    if token is None:
        raise Problem("not-found", "there is no API token with this id")
    try:
        await to_thread.run_sync(access.tokens.revoke, token.id)
    finally:
        for key in (f"token {token.sha256}", *security.sessions.close_of(bytes.fromhex(token.sha256))):
            await security.end(key)


def _may_see(client: Client, token: ApiToken) -> bool:
    return client.manages or client.subject == token.subject


def _fields(token: ApiToken) -> dict[str, str]:
    shown = {name: getattr(token, name) for name in ("id", "person", "role", "note")}
    return shown | {"created": utc(token.created_ns), "expires": utc(token.expires_ns)}
