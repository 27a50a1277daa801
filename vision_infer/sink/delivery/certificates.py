"""The certificates of encrypted connections."""

from __future__ import annotations

import ssl
from pathlib import Path

from vision_infer.sink.delivery.carrier import UndeliveredError


class _Socket(ssl.SSLSocket):
    """A socket that closes itself when the handshake fails: not all libraries do."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def tls_context(where: str, ca: Path | None, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Return a context that checks certificates.

    Args:
        where: The host, for messages.
        ca: The file of trusted certificates, PEM; None: those of the system.
        client: The files of the client's certificate and of its key, PEM; None: it has none.

    Raises:
        UndeliveredError: A file cannot be read.
    """
    field, files, content = "ca", str(ca), "no certificate"
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        context.sslsocket_class = _Socket
        if client is not None:
            field, files, content = "certificate", " and ".join(map(str, dict.fromkeys(client))), "no certificate with its key"
            context.load_cert_chain(*client, password="")  # without a password, OpenSSL would ask for that of the key
        return context
    except (OSError, ssl.SSLError) as error:
        reason = f"contains {content}" if isinstance(error, ssl.SSLError) else error.strerror or "cannot be read"
        raise UndeliveredError(
            f"{where}: {field}: {files}: {reason}", "the file is read again automatically", patient=True
        ) from error


def tls_problem(where: str, error: BaseException) -> UndeliveredError | None:
    """Return the problem with a certificate as an error; None if the exception has another cause.

    Args:
        where: The host, for messages.
        error: The exception, with the chain of its causes.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = cause.verify_message.rstrip(".")
        hint = (
            "Set ca to the certificate of the authority that issued it." if "self-signed" in reason or "issuer" in reason else ""
        )
        return UndeliveredError(f"{where}: the certificate is not accepted: {reason}", hint, patient=True)
    reason = (cause.reason or "no reason given").replace("_", " ").lower()
    return UndeliveredError(f"{where}: the TLS handshake failed: {reason}", "Check that the port uses TLS.", patient=True)
