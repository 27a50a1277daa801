"""No password leaves this program: every URL that is shown, logged or put into an error goes through here."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?<=://)([^/@\s:]*)(?::[^/\s]*)?@")
_SECRET_PARAMETER = re.compile(r"(?i)([?&;](?:pass(?:word|wd)?|pwd|token|secret|key|auth|api_?key)=)[^&;\s]*")


def redact(text: str) -> str:
    """Hide the passwords of all URLs in a text.

    ``rtsp://user:secret@host/path?token=abc`` becomes ``rtsp://user:***@host/path?token=***``.
    """
    text = _CREDENTIALS.sub(lambda match: f"{match[1]}:***@" if match[1] or ":" in match[0] else match[0], text)
    return _SECRET_PARAMETER.sub(r"\1***", text)
