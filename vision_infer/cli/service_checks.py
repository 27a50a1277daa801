"""The checks of a service's gRPC port and shadow model in ``vision-infer doctor``. They never raise."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vision_infer.core.errors import ModelError
from vision_infer.core.finding import Finding
from vision_infer.core.packages import install

if TYPE_CHECKING:
    from vision_infer.config.serve import ServeSettings


def check_grpc_port(settings: ServeSettings) -> Iterator[Finding]:
    """Check whether gRPC is installed and its port is free, if the inference protocol has one."""
    service, protocol = settings.service, settings.service.inference_protocol
    if protocol is None or protocol.grpc_port is None:
        return
    if find_spec("grpc") is None:
        yield Finding("grpc", "error", "service.inference_protocol.grpc_port: gRPC is not installed", install("grpc"))
        return
    try:
        family, kind, *_, address = socket.getaddrinfo(service.host, protocol.grpc_port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            yield Finding("grpc", "ok", f"port {probe.getsockname()[1]} is free")
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that cannot be a name
        reason = getattr(error, "strerror", None) or "unknown host"
        text = f"cannot listen on {service.host}:{protocol.grpc_port} for gRPC: {reason}"
        hint = "If the service runs, this is normal. Otherwise choose another service.inference_protocol.grpc_port."
        yield Finding("grpc", "warning", text, hint)


def check_shadow(settings: ServeSettings) -> Iterator[Finding]:
    """Check whether the shadow model of the configuration and its streams exist."""
    from vision_infer.model.catalog import model_inputs

    if settings.shadow is None:
        return
    for name in settings.shadow.streams:
        if name not in settings.streams:
            hint = "Correct the name, or add this stream through the API."
            yield Finding("shadow", "warning", f"shadow.streams: {name} is not a stream of the configuration", hint)
    try:
        model_inputs(settings.shadow.model, settings.model_dir)
    except ModelError as error:
        yield Finding("shadow", "error", f"shadow.model: {error.message}", error.hint)
    else:
        yield Finding("shadow", "ok", f"model {settings.shadow.model} can be compared")
