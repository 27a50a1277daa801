"""One picture in, its detections out."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import problems
from vision_infer.service.http.problem import Problem

router = APIRouter(prefix="/api/v1", tags=["infer"])

KINDS = ("image/jpeg", "image/png", "image/webp")
_BODY = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "/infer",
    response_class=Response,
    responses={
        200: {
            "description": "What was found, in the form of a row of results",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Result"}}},
        },
        **problems(400, 408, 413, 415, 422, 503),
    },
    openapi_extra={"requestBody": {"required": True, "content": dict.fromkeys(KINDS, _BODY)}},
)
async def infer(
    request: Request,
    context: Shared,
    model: Annotated[
        str | None, Query(min_length=1, max_length=200, description="name of a model; default: the service's")
    ] = None,
    confidence: Annotated[float | None, Query(ge=0, le=1, description="least score; default: the model's")] = None,
    classes: Annotated[str | None, Query(min_length=1, description="only these labels, with commas between them")] = None,
) -> Response:
    """Infer one picture: JPEG, PNG or WebP as the body. It goes through the same batches as the frames of streams."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in KINDS:
        raise Problem("unsupported-media-type", f"send one of {', '.join(KINDS)}", {"Accept": ", ".join(KINDS)})
    labels = None if classes is None else tuple(label.strip() for label in classes.split(",") if label.strip())
    gate = context.uploads
    async with gate.place():
        image = await request.body()
        if not image:
            raise Problem("bad-request", "the body is empty: send a picture")
        result = await to_thread.run_sync(context.backend.infer, image, model, confidence, labels, limiter=gate.threads)
    return Response(result.to_json(), media_type="application/json")
