"""No password leaves this program: every URL that is shown, logged or put into an error goes through here.

Where it is not clear what belongs to a password, more is hidden rather than less.
"""

from __future__ import annotations

import re

# A user name may be an e-mail address, and a password may hold what a URL ought to escape: '@', '?' and even '/' (where what
# follows the colon is no port). IPv6 addresses begin with '['.
_CREDENTIALS = re.compile(r"(?<=://)(?:[^/\s\[][^/\s:]*:(?!\d*[/?#])\S*|:(?!\d*[/?#])\S*|[^/\s]*)@")
_SECRET_PARAMETER = re.compile(
    r"(?i)([?&;#](?:[\w.-]*[._-])?"
    r"(?:pass(?:word|wd|code|phrase)?|pwd|token|secret|(?:api|access)?key|auth|sig(?:nature)?|jwt|credentials?)=)[^&\s]*"
)


def redact(text: str) -> str:
    """Hide the passwords of all URLs in a text.

    ``rtsp://user:secret@host/path?token=abc`` becomes ``rtsp://user:***@host/path?token=***``.
    """
    return _SECRET_PARAMETER.sub(r"\1***", _CREDENTIALS.sub(lambda match: f"{match[0].partition(':')[0].rstrip('@')}:***@", text))
