"""Whom an encrypted connection may lead to."""

from __future__ import annotations

import ssl
from pathlib import Path

from vision_infer.sink.delivery.carrier import UndeliveredError


class _Socket(ssl.SSLSocket):
    """Closes itself where the handshake fails: not all libraries do."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def tls_context(where: str, ca: Path | None) -> ssl.SSLContext:
    """What checks certificates.

    Args:
        where: the host, for messages.
        ca: certificates that are trusted, PEM; None: those of the system.

    Raises:
        UndeliveredError: the file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        context.sslsocket_class = _Socket
        return context
    except (OSError, ssl.SSLError) as error:
        reason = "holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror or "cannot be read"
        raise UndeliveredError(f"{where}: ca: {ca}: {reason}", "it is read again", patient=True) from error


def tls_problem(where: str, error: BaseException) -> UndeliveredError | None:
    """What is wrong with a certificate, in words; None where the error is another.

    Args:
        where: the host, for messages.
        error: with what it was raised from.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLError):
        seen = seen.__cause__ or seen.__context__
    if seen is None:
        return None
    if isinstance(seen, ssl.SSLCertVerificationError):
        reason = seen.verify_message.rstrip(".")
        hint = "set ca to the certificate of its authority" if "self-signed" in reason or "issuer" in reason else ""
        return UndeliveredError(f"{where}: its certificate is not accepted: {reason}", hint, patient=True)
    reason = (seen.reason or "no reason given").replace("_", " ").lower()
    return UndeliveredError(f"{where}: TLS fails: {reason}", "is it a port with TLS?", patient=True)
