"""The static files of the web page. They contain no secrets, so that clients without a token can open the login form."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from vision_infer.service.http.connection import STUCK_S
from vision_infer.service.http.problem import Problem

router = APIRouter(include_in_schema=False)

PREFIX = "/page/"
DOCS_PATH = "/docs"
_PIECE_BYTES = 64 * 1024
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
_PAGE_POLICY = f"{_POLICY}; require-trusted-types-for 'script'; trusted-types 'none'"
"""The content security policy: only scripts of this service, no HTML from strings, no other hosts. The sites that may embed the
page are added."""
_DOCS_POLICY = f"{_POLICY}; img-src 'self' data:"
"""The policy of the API's documentation: Swagger UI makes HTML from sanitized text, and its style sheet contains images."""


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    kind: str
    etag: str


@cache
def _files() -> dict[str, _File]:
    """Return all files of the page by relative path. They are read once, and no other file can be requested."""
    found: dict[str, _File] = {}

    def read(folder: Traversable, path: str) -> None:
        for entry in folder.iterdir():
            name = path + entry.name
            suffix = "." + entry.name.rpartition(".")[2]
            if entry.is_dir():
                read(entry, name + "/")
            elif suffix in _KINDS:
                data = entry.read_bytes()
                found[name] = _File(data, _KINDS[suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')

    read(files("vision_infer.service") / "page", "")
    return found


def is_page(path: str) -> bool:
    """Return whether a path belongs to the page and needs no token."""
    return path in ("/", DOCS_PATH) or path.startswith(PREFIX)


@router.api_route("/", methods=["GET", "HEAD"])
async def get_index(request: Request) -> Response:
    """Return the page."""
    return _send(request, "index.html")


@router.api_route(DOCS_PATH, methods=["GET", "HEAD"])
async def get_docs(request: Request) -> Response:
    """Return the interactive documentation of the API."""
    return _send(request, "docs.html")


@router.api_route(PREFIX + "{path:path}", methods=["GET", "HEAD"])
async def get_file(request: Request, path: str) -> Response:
    """Return a file of the page."""
    return _send(request, path)


def _send(request: Request, path: str) -> Response:
    file = _files().get(path)
    if file is None:
        raise Problem("not-found", "the page has no file with this name")
    headers = {
        "ETag": file.etag,
        "Cache-Control": "no-cache",  # revalidated on each use, so that updates take effect immediately
        "Content-Security-Policy": _DOCS_POLICY if path == "docs.html" else _PAGE_POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return _InPieces(b"" if request.method == "HEAD" else file.data, headers=headers, media_type=file.kind)


class _InPieces(Response):
    """A response that is sent in pieces. uvicorn would copy a whole file for each client, also for clients that do not read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with suppress(TimeoutError):  # the connection is closed
            for begin in range(0, len(self.body), _PIECE_BYTES):
                async with asyncio.timeout(STUCK_S):
                    piece = self.body[begin : begin + _PIECE_BYTES]
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
