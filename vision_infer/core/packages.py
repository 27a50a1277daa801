"""The optional packages: which extra installs each, and the error if it is missing."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from vision_infer.core.errors import MissingPackageError, UsageError

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


def plugin(group: str, name: str) -> Any | None:
    """Load what an installed package adds under a name; None if no package adds it.

    Args:
        group: ``vision_infer.sinks``, ``vision_infer.heads`` or ``vision_infer.hooks``.
        name: The name of the entry point.

    Raises:
        UsageError: It cannot be imported.
    """
    from importlib.metadata import entry_points  # imported late, because it takes time

    found = next(iter(entry_points(group=group, name=name)), None)
    try:
        return None if found is None else found.load()
    except (Exception, SystemExit) as error:
        of = "" if found is None or found.dist is None else f" of the package {found.dist.name}"
        failure = f"{type(error).__name__}: {error}"
        raise UsageError(f"{group} {name}{of}: importing failed: {failure}", "Update or uninstall the package.") from error


def plugin_names(group: str) -> tuple[str, ...]:
    """Return the names that installed packages add, without importing them."""
    from importlib.metadata import entry_points

    return tuple(found.name for found in entry_points(group=group))
