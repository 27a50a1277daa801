"""Login of a browser through the provider of OpenID Connect."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from vision_infer.core.errors import VisionInferError
from vision_infer.service.http.access.identify import CALLBACK_PATH, LOGIN_PATH, cookie_of, too_many
from vision_infer.service.http.context import Context, Shared
from vision_infer.service.http.limits import address_of
from vision_infer.service.http.openapi import problems
from vision_infer.service.http.problem import Problem
from vision_infer.service.http.routes.access.session import log_in

if TYPE_CHECKING:
    from vision_infer.service.http.access.oidc import Oidc

router = APIRouter(tags=["session"])
LOGIN_COOKIE = "vision_infer_login"
_REDIRECT: dict[int | str, dict[str, Any]] = {303: {"description": "The URL to which the browser goes."}}

logger = logging.getLogger("vision_infer.http")


def _oidc(context: Context) -> Oidc:
    access = context.security.access
    if access is None or access.oidc is None:
        raise Problem("not-found", "single sign-on is disabled; see the setting access.oidc")
    return access.oidc


@router.get(
    LOGIN_PATH,
    status_code=303,
    response_class=RedirectResponse,
    responses={**_REDIRECT, **problems(404, 503)},
    name="begin_login",
)
async def begin_login(context: Shared) -> RedirectResponse:
    """Begin a login: redirect the browser to the provider."""
    oidc = _oidc(context)
    cookie = oidc.begin()
    async with context.logins.slot():
        try:
            response = RedirectResponse(await oidc.address(cookie), 303)
        except VisionInferError:  # the log has the details
            raise Problem("unavailable", "the login provider does not answer", {"Retry-After": "30"}) from None
    # Lax: the provider sends the browser back with a request from another site.
    path, secure = f"{context.security.settings.root_path}{CALLBACK_PATH}", oidc.settings.page_url.startswith("https:")
    response.set_cookie(LOGIN_COOKIE, cookie, max_age=600, path=path, secure=secure, httponly=True, samesite="lax")
    return response


@router.get(
    CALLBACK_PATH,
    status_code=303,
    response_class=RedirectResponse,
    responses={**_REDIRECT, **problems(400, 403, 404, 422, 503)},
    name="finish_login",
)
async def finish_login(
    request: Request,
    context: Shared,
    state: Annotated[str, Query(max_length=200, description="The state of the login.")] = "",
    code: Annotated[str, Query(max_length=4096, description="The authorization code.")] = "",
) -> Response:
    """Finish a login: the provider redirects the browser to this path."""
    security, oidc = context.security, _oidc(context)
    cookie = cookie_of(request.headers, LOGIN_COOKIE)
    wait_s = security.logins.take(address_of(request.scope))
    if wait_s:
        raise too_many("too many logins from this address", wait_s)
    try:
        if cookie is None or not code:
            raise Problem("bad-request", "the login was not begun in this browser, or was canceled; open the page and try again")
        async with context.logins.slot():
            principal = await oidc.finish(cookie, state, code)
    except VisionInferError as error:
        from vision_infer.service.http.access.oidc import LoginRefusedError

        logger.warning("login by %s: %s", address_of(request.scope), error)
        security.refuse(request.scope)
        refused = isinstance(error, LoginRefusedError)
        raise Problem("login-refused", str(error) if refused else "the login provider did not accept the login") from None
    response = RedirectResponse(oidc.settings.page_url, 303)  # always the page: no part of the request decides
    log_in(response, security, principal, principal.subject, oidc.settings.page_url.startswith("https:"))
    path = f"{security.settings.root_path}{CALLBACK_PATH}"
    response.delete_cookie(
        LOGIN_COOKIE, path=path, secure=oidc.settings.page_url.startswith("https:"), httponly=True, samesite="lax"
    )
    request.scope["state"] |= {"principal": principal, "event": "login"}
    return response
