"""Requests of commands to a running service."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision_infer.core.errors import UsageError, VisionInferError

if TYPE_CHECKING:
    from email.message import Message

MAX_ANSWER = 8 << 20
TIMEOUT_S = 10.0
TOKEN = "VISION_INFER_SERVICE__TOKEN"


@dataclass(frozen=True, slots=True, repr=False)  # it contains the token
class ServiceClient:
    """A running service.

    Args:
        option: The option that set the URL, for messages.
    """

    url: str
    token: str | None
    option: str

    def ask(self, path: str) -> Any:
        """Send GET, and return the JSON answer.

        Raises:
            UsageError: The URL is invalid, or the service rejects the request.
            VisionInferError: The service cannot be reached, or is not vision-infer.
        """
        answer, _ = self.send("GET", path)
        try:
            return json.loads(answer)
        except ValueError:
            raise VisionInferError(f"{self.url}: is not a vision-infer service", f"Check {self.option}.") from None

    def is_alive(self) -> bool:
        """Return whether a service responds at the URL. No token is needed."""
        try:
            return self.send("GET", "/healthz")[0] == b"ok\n"
        except VisionInferError:
            return False

    def send(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> tuple[bytes, Message]:
        """Send a request; return the body and the headers of the answer.

        Raises:
            UsageError: The URL is invalid, or the service rejects the request.
            VisionInferError: The service cannot be reached.
        """
        from http.client import HTTPException
        from urllib.error import HTTPError, URLError
        from urllib.parse import urlsplit
        from urllib.request import Request, urlopen

        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise UsageError(
                f"{self.option}: is not the URL of a service", "Write http://HOST:PORT, without a user name or password."
            )
        request = Request(self.url.rstrip("/") + path, body, {"Accept": "*/*"}, method=method)
        if content_type:
            request.add_header("Content-Type", content_type)
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            with urlopen(request, timeout=TIMEOUT_S) as response:
                return response.read(MAX_ANSWER), response.headers
        except HTTPError as error:
            with error:
                raise _problem(error.read(MAX_ANSWER), error.code) from None
        except (URLError, HTTPException, OSError, ValueError) as error:
            cause = getattr(error, "reason", None) or error
            reason = getattr(cause, "strerror", None) or cause
            raise VisionInferError(
                f"{self.url}: the service does not respond: {reason}",
                f"Check that vision-infer serve is running, or set {self.option}.",
            ) from None


def read_token(file: Path | None) -> str | None:
    """Return the token in a file; without a file, that of the environment.

    Raises:
        UsageError: The file cannot be read.
    """
    if file is None:
        return os.environ.get(TOKEN)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: is not a readable token file", getattr(error, "strerror", None) or str(error)) from None


def _problem(body: bytes, status: int) -> Exception:
    try:
        detail = str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"the service responded with status {status}"
    hint = f"Set the token with --token-file or ${TOKEN}." if status == 401 else ""
    return UsageError(detail, hint)
