"""Checks the responses of an ONVIF device before they are parsed, and explains its faults. No input or output here.

The requests are built and the responses parsed by ``onveef``. Its parsers search whole trees, so a document that is nested deeply
or has very many elements would occupy them for hours; such documents are rejected here.

Specifications: SOAP 1.2, part 1, section 5.4 (faults); ONVIF Core Specification (fault codes).
"""

from __future__ import annotations

import re
from xml.parsers import expat

_MAX_DEPTH, _MAX_ELEMENTS = 24, 20_000
_ENVELOPES = ("http://www.w3.org/2003/05/soap-envelope", "http://schemas.xmlsoap.org/soap/envelope/")
_OF_AUTHENTICATION = re.compile(r"(?i)not\s?authori[sz]ed|authori[sz]ed time check|failed\s?authentication|unauthori[sz]ed|wsse:")


class InvalidResponseError(ValueError):
    """A response is not a SOAP message, or exceeds a limit."""


def checked_text(content: bytes) -> str:
    """Return the text of a SOAP message.

    Raises:
        InvalidResponseError: It is not one, has a document type (and may therefore define entities), or exceeds a limit.
    """
    text = content.decode("utf-8", "replace")
    depth = elements = 0
    root = ""

    def start(name: str, _: object) -> None:
        nonlocal depth, elements, root
        depth, elements, root = depth + 1, elements + 1, root or name
        if depth > _MAX_DEPTH or elements > _MAX_ELEMENTS:
            raise InvalidResponseError("is nested too deep or has too many elements")

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> None:
        raise InvalidResponseError("has a document type, which is not allowed")

    parser = expat.ParserCreate("utf-8", " ")
    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, refuse
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError:
        raise InvalidResponseError("is not XML") from None
    namespace, _, name = root.rpartition(" ")
    if name != "Envelope" or namespace not in _ENVELOPES:
        raise InvalidResponseError("is not a SOAP message")
    return text


def fault_of(text: str) -> str:
    """Return the codes and the reason of the fault in a message that :func:`checked_text` returned; empty if it has none."""
    from onveef import parsers

    root = parsers.parse_xml(text)
    fault = None if root is None else parsers.find_local(root, "Fault")
    if fault is None:
        return ""
    names = ("Value", "Text", "faultcode", "faultstring")
    words = [(element.text or "").strip() for name in names for element in parsers.find_all_local(fault, name)]
    return " ".join(" ".join(filter(None, words)).split()) or "without a reason"


def is_of_authentication(fault: str) -> bool:
    """Return whether a fault means that the user name, the password or the time of the request was refused."""
    return _OF_AUTHENTICATION.search(fault) is not None
