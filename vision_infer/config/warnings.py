"""What is right in itself, and may yet not work here: files that are not there now. They may come; ``--check`` says so."""

from __future__ import annotations

from pathlib import Path

from vision_infer.config.serve import ServeSettings
from vision_infer.config.stream_url import split_url


def doubts_of(settings: ServeSettings) -> list[str]:
    """What may not work, a line for each, with its field; holds no secret.

    Text that was meant as a URL and became a path may hold a password: paths of streams are not shown.
    """
    found: list[str] = []
    for name, stream in settings.streams.items():
        for field, url in (("detect", stream.detect), ("view", stream.view), ("degrade_detect", stream.degrade_detect)):
            parts = None if url is None else split_url(url)
            if parts is not None and parts.scheme in ("file", "dev") and not Path(parts.rest).exists():
                what = "device" if parts.scheme == "dev" else "file"
                found.append(f"streams.{name}.{field}: there is no such {what} now; it is waited for")
    tls = settings.service.tls
    for field, path in () if tls is None else (("certificate", tls.certificate), ("key", tls.key)):
        if not path.is_file():
            found.append(f"service.tls.{field}: {path}: there is no such file now")
    sinks = [("mqtt", name, one.ca) for name, one in settings.sinks.mqtt.items()]
    sinks += [("webhook", name, one.ca) for name, one in settings.sinks.webhook.items()]
    found += [f"sinks.{kind}.{name}.ca: {ca}: there is no such file now" for kind, name, ca in sinks if ca and not ca.is_file()]
    if settings.model_dir is not None and not settings.model_dir.is_dir():
        found.append(f"model_dir: {settings.model_dir}: there is no such folder now")
    return found
