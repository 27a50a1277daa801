"""Warnings about valid settings: files that do not exist yet. ``--check`` prints them."""

from __future__ import annotations

from pathlib import Path

from vision_infer.config.serve import ServeSettings
from vision_infer.config.stream_url import split_url


def warnings_of(settings: ServeSettings) -> list[str]:
    """Return the warnings, one line each, with the field. They contain no secret.

    The paths of streams are left out: a mistyped URL is parsed as a path and may contain a password.
    """
    found: list[str] = []
    for name, stream in settings.streams.items():
        for field, url in (("detect", stream.detect), ("view", stream.view), ("degrade_detect", stream.degrade_detect)):
            parts = None if url is None else split_url(url)
            if parts is not None and parts.scheme in ("file", "dev") and not Path(parts.rest).exists():
                what = "device" if parts.scheme == "dev" else "file"
                found.append(f"streams.{name}.{field}: {what} not found; the service will keep retrying")
    tls = settings.service.tls
    for field, path in () if tls is None else (("certificate", tls.certificate), ("key", tls.key)):
        if not path.is_file():
            found.append(f"service.tls.{field}: {path}: file not found")
    sinks = [(kind, name, getattr(sink, "ca", None)) for kind, by_name in settings.sinks for name, sink in by_name.items()]
    found += [f"sinks.{kind}.{name}.ca: {ca}: file not found" for kind, name, ca in sinks if ca and not ca.is_file()]
    roles = {} if settings.access is None else settings.access.roles
    for name, role in roles.items():
        unknown = [camera for camera in role.cameras or () if camera not in settings.streams]
        if unknown:
            found.append(f"access.roles.{name}: this file has no stream named {', '.join(unknown[:5])}; the API may add it")
    if settings.model_dir is not None and not settings.model_dir.is_dir():
        found.append(f"model_dir: {settings.model_dir}: folder not found")
    return found
