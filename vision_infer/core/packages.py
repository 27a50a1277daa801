"""The optional packages: which extra installs each, and the error if it is missing."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

from vision_infer.core.errors import MissingPackageError

SERVICE = ("cv2", "fastapi", "uvicorn", "websockets", "prometheus_client", "aiortc", "httpx", "paho")
"""The modules of the service."""
EXTRA_OF = {
    **dict.fromkeys(SERVICE, "serve"),
    "cv2": "images",
    "onveef": "onvif",
    "supervision": "supervision",
    "pyarrow": "parquet",
    "pycocotools": "evaluate",
    "joserfc": "oidc",
    "matplotlib": "plot",
    "confluent_kafka": "kafka",
    "nats": "nats",
    "redis": "redis",
    "aio_pika": "amqp",
    "apprise": "notify",
    "opentelemetry": "otel",
    "ray": "ray",
    "fsspec": "ray",
    "grpc": "grpc",
}
"""The extra that installs each module."""


def install(extra: str) -> str:
    """Return the hint that says how to install an extra."""
    return f"Run: pip install '.[{extra}]'"


def require(purpose: str, *modules: str, extra: str | None = None) -> None:
    """Check that modules are installed, without importing them.

    Args:
        purpose: What needs them, for the message, such as ``serve``.
        modules: The modules, keys of :data:`EXTRA_OF`.
        extra: The extra that installs all of them. Defaults to that of the missing one.

    Raises:
        MissingPackageError: One of them is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            hint = install(extra or EXTRA_OF[module])
            raise MissingPackageError(f"{purpose} needs the package {module}, which is not installed", hint)


def entry_point(group: str, name: str) -> EntryPoint | None:
    """Return what an installed package adds under a name; None if no package does.

    Args:
        group: ``vision_infer.sinks``, ``vision_infer.heads`` or ``vision_infer.hooks``.
        name: The name of the entry point.
    """
    return next(iter(entry_points(group=group, name=name)), None)
