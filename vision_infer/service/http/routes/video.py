"""Live video as MJPEG, for players and recorders without WebRTC."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vision_infer.core.result import utc
from vision_infer.pipeline.status import StreamState
from vision_infer.service.errors import UnavailableError
from vision_infer.service.http.connection import STUCK_S
from vision_infer.service.http.context import Shared, StreamName
from vision_infer.service.http.openapi import answer_of, problems
from vision_infer.service.http.routes.results import until_gone
from vision_infer.service.results.live_images import Watcher
from vision_infer.service.views import Snapshot

router = APIRouter(prefix="/api/v1", tags=["preview"])

MJPEG = "multipart/x-mixed-replace"
MIN_FPS = 0.1
"""A viewer counts at least until its next image is due."""
MAX_FPS = 15.0


@router.get(
    "/streams/{name}/video.mjpeg",
    response_class=Response,
    responses={200: answer_of("Endless JPEG images.", MJPEG), **problems(404, 422, 503)},
)
async def get_video(
    name: StreamName,
    context: Shared,
    annotated: Annotated[bool, Query(description="Draw the detections on the images.")] = False,
    fps: Annotated[float, Query(ge=MIN_FPS, le=MAX_FPS, description="The maximum rate of images per second.")] = 5.0,
) -> Response:
    """Stream the frames that were inferred, as MJPEG. The response ends if the stream delivers no frames for ten seconds."""
    status = context.backend.stream(name).status
    if status is None or status.state is not StreamState.LIVE:
        state, reason = ("disabled", "") if status is None else (status.state.value, status.reason)
        raise UnavailableError(f"{name}: the stream delivers no frames", "See the stream's state.", state, reason)
    watcher = context.images.watch(name, annotated, fps)
    try:
        first = await watcher.next()
    except BaseException:
        watcher.__exit__(None, None, None)
        raise
    return _ImageStream(watcher, first)


class _ImageStream(Response):
    media_type = f"{MJPEG}; boundary=frame"

    def __init__(self, watcher: Watcher, first: Snapshot) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._watcher = watcher
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope

        async def send_images() -> None:
            image = self._first
            while True:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image.jpeg)}\r\n"
                head += f"X-Captured-At: {utc(image.captured_wall_ns)}\r\n\r\n"
                body = head.encode() + image.jpeg + b"\r\n"
                async with asyncio.timeout(STUCK_S):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                try:
                    image = await self._watcher.next()
                except UnavailableError:
                    return

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        with self._watcher:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if await until_gone(send_images(), gone()):
                await send({"type": "http.response.body", "body": b"--frame--\r\n"})
