"""Hides secrets in names and URLs: every name that is shown, logged or part of an error passes through here.

No password leaves this program. If it is not clear what belongs to a password, more is hidden rather than less.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

# A user name may be an e-mail address, and a password may contain characters that a URL must escape (RFC 3986, section 3.2.1):
# '@', '?' and even '/', unless a port follows the colon and no host follows the '@'. IPv6 addresses begin with '['.
_PORT = r"(?!\d*(?:[?#]|/(?!\S*@(?:[\w-]+\.[\w.-]+|[\w-]+[:/]))))"
_CREDENTIALS = re.compile(rf"(?<=://)(?:[^/\s\[][^/\s:]*:{_PORT}\S*|:{_PORT}\S*|[^/\s]*)@")
# A mistyped URL: user:password@host, rtsp//user:password@host, rtsp:/user:password@host.
_NO_SCHEME = re.compile(r"(?<![^\s/'\"(\[])(?<!://)([^\s/:@'\"(\[]+):(?![/\\])\S*@")
# The same, percent-encoded, in a parameter of another URL.
_ENCODED_CREDENTIALS = re.compile(r"(?i)(?<=%3A%2F%2F)[^&\s]*(?=%40)")
# A value up to the next parameter. One that is hidden already ends before the punctuation of the sentence: "token=***: refused".
_VALUE = r"(?:\*\*\*(?=[:.,;]?(?:\s|$))|[^&\s]*)"
# The path of a URL, and its query and fragment. There are too many names of secrets to list: every value is hidden unless its
# name is known to be harmless.
_URL = re.compile(r"(?i)(?<!file://)(?<=://)([^\s?#]*)([?#]\S*)?")
_PART = re.compile(r"([?&;#])([^=&;?#\s]+)(=?)([^&;?#\s]*)")
_HARMLESS = re.compile(
    r"(?i)audio|bitrate|camera|ch|chan|channel|channelid|chn|clock|codec|compression|date|device|duration|enablesrtp|encoding|end"
    r"|endtime|fmt|format|fps|framerate|h26[45x]|height|input|inst|interval|latency|line|loop|mode|multicast|overlay|page|pkt_size|port"
    r"|profile|proto|protocol|quality|rate|resolution|rotation|rtsp_transport|seconds|seek"
    r"|sessiontimeout|size|speed|start|starttime|stream"
    r"|streamtype|subtype|tcp|time|timeout|track|trackid|transport|transportmode|transtype|type|udp|unicast|vcd"
    r"|version|video|videocodec|view|width"
)
# A value is shown if it is a time, a size, or a short word or number: letters together with many digits may be a key.
_HARMLESS_VALUE = re.compile(
    r"(?:[\d.:+TtZz-]{0,12}|\d{4}-?\d\d-?\d\d[Tt]\d\d:?\d\d:?\d\d[\d.:+Zz-]{0,7}|\d{1,5}x\d{1,5}|"
    r"(?!(?=.*[A-Za-z])(?:\D*\d){5})[\w.,:+-]{0,12})[])>'\".,:]*",
    re.ASCII,
)
_LONG_VALUE = re.compile(r"=[^&;#=]{24}")
# The last parts of an RTMP path are a stream key; so is a long part of letters and digits in any URL.
_RTMP_KEY = re.compile(r"(?i)(\brtmps?://[^\s/?#]+/+[^\s/?#]+/+)(?!\*\*\*)[^\s?#]*[^\s?#:.,;)'\"]")
_PATH_KEY = re.compile(r"(?<=/)(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{16,}(?=[/?#.:,;)'\"\s]|$)")
# Some recorders give each camera an RTSP path of letters.
_RTSP_PATH = re.compile(r"(?i)\brtsps?://[^\s?#]*")
_LETTERS_KEY = re.compile(r"(?<=[^/]/)[A-Za-z]{16,}(?=[/?#.:,;)'\"\s]|$)")
_WORDS = (
    r"(?:login|user|admin)?(?:pass?(?:word|wd|code|phrase)?|pa?swd?|pwd?)|token|secret|(?:api|access|stream|licen[cs]e)?key|auth|code"
    r"|sig(?:nature)?|hash|jwt|credentials?|session(?:id)?|sid|streamid"
)
_NAME = re.compile(
    rf"(?i)(?:.*[._-])?(?:{_WORDS})|.*[a-z0-9](?-i:Pass(?:word)?|Pwd|Token|Secret|Key|Auth|Signature|Credentials?)"
)
# Some cameras take the password in the path: user=admin_password=secret_channel=1. An SRT stream ID may contain one anywhere.
_SECRET_PARAMETER = re.compile(
    rf"((?:(?i:[?&;#,/_\s\"'{{=.-]|^)(?i:{_WORDS})|[a-z0-9](?:Pass(?:word)?|Pwd|Token|Secret|Key|Auth|Signature|Credentials?))"
    rf"(?i:=|%3D)){_VALUE}"
)
_ENCODED_NAME = re.compile(rf"(?<=[?&;#])([^=&?;#\s]*%[0-9A-Fa-f]{{2}}[^=&?;#\s]*)={_VALUE}")
_JSON_MEMBER = re.compile(r"(?<=[\"'])([\w.-]+)([\"']\s*:\s*[\"'])[^\"']*")
_MAX_TEXT = 8000
"""The time of the expressions grows with the square of the length, and devices and clients may send long texts."""
# Besides control characters: those that end a line, or change the direction of the text after them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def redact(text: str) -> str:
    """Hide the passwords of all URLs in a text, and make it printable.

    ``rtsp://user:secret@host/path?channel=1&token=abc`` becomes ``rtsp://user:***@host/path?channel=1&token=***``. Of a text
    with more than 8000 characters, only the first words are returned, and its length.
    """
    if len(text) > _MAX_TEXT:  # cut between words: the part of a password would not be recognized
        text = f"{text[:_MAX_TEXT].rpartition(' ')[0]} … ({len(text)} characters)".lstrip()
    hidden = _CREDENTIALS.sub(lambda match: f"{match[0].partition(':')[0].rstrip('@')}:***@", text)
    hidden = _NO_SCHEME.sub(r"\1:***@", hidden)
    hidden = _URL.sub(lambda match: _PATH_KEY.sub("***", match[1]) + _PART.sub(_hidden_part, match[2] or ""), hidden)
    hidden = _RTSP_PATH.sub(lambda match: _LETTERS_KEY.sub("***", match[0]), hidden)
    hidden = _RTMP_KEY.sub(r"\1***", hidden)
    hidden = _ENCODED_CREDENTIALS.sub("***", hidden)
    hidden = _ENCODED_NAME.sub(lambda match: f"{match[1]}=***" if _NAME.fullmatch(unquote(match[1])) else match[0], hidden)
    hidden = _JSON_MEMBER.sub(lambda match: f"{match[1]}{match[2]}***" if _NAME.fullmatch(match[1]) else match[0], hidden)
    hidden = _SECRET_PARAMETER.sub(r"\1***", hidden)
    return printable(hidden)


def has_secret(url: str, password: str) -> bool:
    """Return whether a URL that a camera reported seems to contain a secret: a password, or a key in place of it.

    :func:`redact` hides every value that is not known to be harmless, so such a URL can no longer be used. Here a value is a
    secret if its name is that of one, if it contains the password, or if it is long.

    Args:
        url: The URL, without a user name.
        password: The password of the camera; may be empty.
    """
    base, plain = re.split("[?#]", url, maxsplit=1)[0], unquote(url)
    own = bool(password) and password in plain
    return own or redact(base) != base or any(found.search(plain) for found in (_SECRET_PARAMETER, _LONG_VALUE))


def _hidden_part(match: re.Match[str]) -> str:
    mark, name, equals, value = match.groups()
    harmless = _HARMLESS.fullmatch(name) and _HARMLESS_VALUE.fullmatch(value)
    if harmless or (not any(letter.isalnum() for letter in name + value) and "***" not in (name, value)):
        return match[0]
    end = match[0][len(match[0].rstrip(":.,")) :] if (value or name).startswith("***") else ""
    return f"{mark}{name}=***{end}" if equals and value.strip("=") else f"{mark}***{end}"  # base64 ends with "="


def printable(name: str) -> str:
    r"""Return a name as text that can be displayed and encoded as UTF-8.

    File names are bytes. Bytes that are not UTF-8 (surrogates in Python), line ends and other control characters, also those
    that change the direction of a text, are written as ``\xNN`` or ``\uNNNN``: ``caf\xe9.mp4``. The file itself is opened by its
    original name.
    """
    return _UNPRINTABLE.sub(_escaped, name)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # Python's surrogateescape for a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
