"""Inference on single images."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import BINARY, answer_of, problems, request_body
from vision_infer.service.http.problem import Problem
from vision_infer.stream.image_size import image_kind

router = APIRouter(prefix="/api/v1", tags=["infer"])

KINDS = ("image/jpeg", "image/png", "image/webp")


@router.post(
    "/infer",
    response_class=Response,
    responses={
        200: answer_of("The result, in the form of a result row.", "application/json", {"$ref": "#/components/schemas/Result"}),
        **problems(400, 408, 413, 415, 422, 503),
    },
    openapi_extra=request_body(BINARY, *KINDS),
)
async def infer(
    request: Request,
    context: Shared,
    model: Annotated[
        str | None, Query(min_length=1, max_length=200, description="The name of the model. Defaults to the service's model.")
    ] = None,
    confidence: Annotated[
        float | None, Query(ge=0, le=1, description="The minimum confidence. Defaults to the model card's value.")
    ] = None,
    classes: Annotated[
        str | None, Query(min_length=1, description="The labels to return, separated by commas. Defaults to all.")
    ] = None,
) -> Response:
    """Run inference on one JPEG, PNG or WebP image in the body. The image shares batches with the frames of streams."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in KINDS:
        raise Problem("unsupported-media-type", f"send one of {', '.join(KINDS)}", {"Accept": ", ".join(KINDS)})
    labels = None if classes is None else tuple(label.strip() for label in classes.split(",") if label.strip())
    limiter = context.uploads
    async with context.bodies.body(request) as image:
        if not image:
            raise Problem("bad-request", "the body is empty; send an image")
        found = image_kind(image)
        if found is not None and kind != f"image/{found}":
            raise Problem("unsupported-media-type", f"the Content-Type is {kind}, but the body is image/{found}")
        async with limiter.slot():
            result = await to_thread.run_sync(context.backend.infer, image, model, confidence, labels, limiter=limiter.threads)
    return Response(result.to_json(), media_type="application/json")
