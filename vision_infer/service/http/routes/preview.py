"""Live video over WHEP (draft-ietf-wish-whep): offer and answer, trickle ICE, end of the session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from vision_infer.preview.preview import NoCodecError, NoPreviewError, UnknownSessionError
from vision_infer.preview.session import Session
from vision_infer.preview.transport.ice import link_header
from vision_infer.service.errors import UnavailableError
from vision_infer.service.http.access.identify import PROXY_HEADERS
from vision_infer.service.http.api_models import ApiModel, shared_fields
from vision_infer.service.http.auth import is_loopback
from vision_infer.service.http.context import Context, Shared, StreamName, principal_of
from vision_infer.service.http.openapi import TEXT, answer_of, problems, request_body
from vision_infer.service.http.problem import Problem

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"
MAX_SDP_BYTES = 64 * 1024

router = APIRouter(prefix="/api/v1", tags=["preview"])


class PreviewSession(ApiModel):
    """A preview session of one viewer."""

    stream: str
    mode: Literal["passthrough", "encoded"] = Field(
        description="`passthrough`: the stream's packets are forwarded; `encoded`: the video is re-encoded."
    )
    codec: str = Field(description="`H264`, `H265`, `VP8`, `VP9` or `AV1`.")
    profile: str = Field(description="The profile of the codec, for example `High`; empty for VP8.")
    reason: str = Field(description="The reason for re-encoding; empty for `passthrough`.")
    audio: Literal["opus", "PCMU", "PCMA"] | None = Field(
        description="The codec of the sound; null if the stream has no sound, or the player requests none."
    )
    width: int | None = Field(description="The frame width in pixels; null until it is known.")
    height: int | None = Field(description="The frame height in pixels; null until it is known.")
    connection: str = Field(description="`new`, `connecting`, `connected`, `failed` or `closed`.")
    ice: str = Field(description="`new`, `checking`, `completed`, `failed` or `closed`.")
    dtls: str = Field(description="`new`, `connecting`, `connected`, `failed` or `closed`.")
    checks: int = Field(description="The number of valid connectivity checks from the player. 0: no packet of it arrived.")
    transport: Literal["udp", "tcp"] | None = Field(description="The transport protocol of the video; null until it is known.")
    remote: str | None = Field(description="The IP address and port of the player; null until they are known.")
    group_kept: bool = Field(
        description="Whether the current group of pictures is buffered; if not, new viewers wait for a key frame."
    )
    packets: int = Field(description="The number of RTP packets sent.")
    resent: int = Field(description="The number of these that were retransmissions.")
    dropped: int = Field(description="The number of frames dropped because the viewer was too slow.")


async def _text(request: Request, wanted: str) -> str:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != wanted:
        header = "Accept-Post" if wanted == SDP else "Accept-Patch"
        raise Problem("unsupported-media-type", f"send it as {wanted}", {header: wanted})
    body = await request.body()
    if len(body) > MAX_SDP_BYTES:
        raise Problem("too-large", f"the body exceeds {MAX_SDP_BYTES} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Problem("bad-request", "the body is not UTF-8 text") from None


def _accepts(header: str | None) -> bool:
    kinds = [part.partition(";")[0].strip().lower() for part in (header or "*/*").split(",")]
    return any(kind in (SDP, "application/*", "*/*") for kind in kinds)


def _session(request: Request, context: Context, name: str, session: str) -> Session:
    try:
        return context.backend.preview.session(name, session, principal_of(request).key)
    except UnknownSessionError as error:
        raise Problem("not-found", str(error)) from None


def _links(context: Context) -> Mapping[str, str]:
    links = link_header(context.backend.settings.preview.ice_servers, context.clock.wall_ns())
    return {"Link": links} if links else {}


@router.post(
    "/streams/{name}/whep",
    status_code=201,
    response_class=Response,
    responses={
        201: answer_of("The SDP answer.", SDP, TEXT)
        | {
            "headers": {
                "Location": {"description": "The URL of the session.", "schema": TEXT},
                "ETag": {"description": "The tag of the ICE session, for PATCH.", "schema": TEXT},
                "Link": {"description": 'The ICE servers (`rel="ice-server"`), with credentials.', "schema": TEXT},
            }
        },
        **problems(404, 406, 409, 415, 422, 503),
    },
    openapi_extra=request_body(TEXT, SDP),
)
async def offer_preview(name: StreamName, request: Request, context: Shared) -> Response:
    """Start a preview session: send an SDP offer, receive an SDP answer."""
    sdp = await _text(request, SDP)
    if not _accepts(request.headers.get("accept")):
        raise Problem("not-acceptable", f"the response has the type {SDP}")
    view = context.backend.stream(name)
    if not view.settings.enabled:
        raise Problem("conflict", f"{name} is disabled; enable it first")
    try:
        session = await context.backend.preview.offer(name, sdp, principal_of(request).key, _is_local(request, context))
    except NoCodecError as error:
        raise Problem("not-acceptable", str(error)) from None
    except NoPreviewError as error:
        state = "" if view.status is None else view.status.state.value
        reason = "" if view.status is None else view.status.reason
        raise UnavailableError(error.message, error.hint, state, reason) from None
    location = f"{context.backend.settings.service.root_path}/api/v1/streams/{name}/whep/{session.id}"
    return Response(session.answer, 201, {"Location": location, "ETag": session.etag, **_links(context)}, SDP)


def _is_local(request: Request, context: Context) -> bool:
    """Return whether the service and this viewer use loopback addresses, so that video may be sent there."""
    if request.client is None or any(name in request.headers for name in PROXY_HEADERS):
        return False  # a proxy on this machine, but the viewer may be anywhere
    return is_loopback(request.client.host) and is_loopback(context.backend.settings.service.host)


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@router.options("/streams/{name}/whep", status_code=204, response_class=Response, responses=problems(404))
async def preview_options(name: StreamName, context: Shared) -> Response:
    """Return the accepted content type of offers and the ICE servers."""
    context.backend.stream(name)
    return Response(status_code=204, headers={"Allow": "OPTIONS, POST", "Accept-Post": SDP, **_links(context)})


@router.get("/streams/{name}/whep/{session}", responses=problems(404))
async def get_preview(name: StreamName, session: str, request: Request, context: Shared) -> PreviewSession:
    """Return the status of a preview session."""
    found = _session(request, context, name, session)
    facts, viewer, size, route = found.facts, found.viewer, found.feed.size, found.route
    return PreviewSession.model_validate(
        shared_fields(PreviewSession, facts)
        | {"packets": 0, "resent": 0, "dropped": 0}
        | shared_fields(PreviewSession, viewer)
        | {
            "width": None if size is None else size.width,
            "height": None if size is None else size.height,
            "connection": found.state,
            "ice": found.ice_state,
            "dtls": found.dtls_state,
            "checks": found.checks,
            "transport": None if route is None else route.protocol,
            "remote": None if route is None else _endpoint(*route.remote),
            "group_kept": not found.feed.group_too_long,
        }
    )


@router.patch(
    "/streams/{name}/whep/{session}",
    status_code=204,
    response_class=Response,
    responses=problems(404, 412, 415, 428, 501),
    openapi_extra=request_body(TEXT, FRAGMENT),
)
async def patch_preview(name: StreamName, session: str, request: Request, context: Shared) -> Response:
    """Add ICE candidates of the player (RFC 8840). ICE restarts are not supported; open a new session instead."""
    found = _session(request, context, name, session)
    fragment = await _text(request, FRAGMENT)
    matches = request.headers.get("if-match")
    if matches is None:
        raise Problem("precondition-required", "send the session's ETag as If-Match")
    if matches != found.etag:
        raise Problem("precondition-failed", "the ETag in If-Match does not match the session")
    if not await found.trickle(fragment):
        raise Problem("not-implemented", "ICE restarts are not supported; end the session and open a new one")
    return Response(status_code=204)


@router.delete("/streams/{name}/whep/{session}", status_code=200, response_class=Response, responses=problems(404))
async def end_preview(name: StreamName, session: str, request: Request, context: Shared) -> Response:
    """End a preview session."""
    await _session(request, context, name, session).end("the client ended it")
    return Response(status_code=200)
