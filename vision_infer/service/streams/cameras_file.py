"""The running streams as a configuration file, with references in place of passwords."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vision_infer.config.serve import ServeSettings
from vision_infer.service.views import StreamView
from vision_infer.stream.redact import redact

_HIDDEN = "***"


def cameras_file(settings: ServeSettings, streams: Sequence[StreamView]) -> str:
    """Return the YAML text of a configuration with these streams and the default model.

    A secret in a URL is replaced with a reference to an environment variable; the file begins with the list of these variables.
    """
    import yaml

    variables: dict[str, str] = {}
    data = {view.name: _stream(view, variables) for view in streams}
    head = "# The streams of a running vision-infer service. Start it with: vision-infer serve cameras.yaml\n"
    head += "# It contains the streams and the default model only. Copy all other settings from your own configuration.\n"
    if variables:
        head += "# Set these environment variables first. Special characters need no percent-encoding:\n"
        head += "".join(f"#   {variable}: the password of {name}\n" for variable, name in variables.items())
    model = {} if settings.model == ServeSettings.model_fields["model"].default else {"model": _escaped(settings.model)}
    return head + yaml.safe_dump({**model, "streams": data}, sort_keys=False, allow_unicode=True, width=1_000_000)


def _stream(view: StreamView, variables: dict[str, str]) -> dict[str, Any]:
    data: dict[str, Any] = _escaped(view.settings.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    stem = f"CAMERA_{re.sub('[^A-Za-z0-9]', '_', view.name).upper()}_PASSWORD"

    def reference(_: re.Match[str]) -> str:
        variable, number = stem, 2
        while variable in variables:
            variable, number = f"{stem}_{number}", number + 1
        variables[variable] = view.name
        return f"${{{variable}}}"

    for field in ("detect", "view", "degrade_detect"):
        if field in data:
            data[field] = re.sub(re.escape(_HIDDEN), reference, redact(data[field]))
    return data


def _escaped(value: Any) -> Any:
    """Double all dollar signs, which begin references in a configuration."""
    if isinstance(value, dict):
        return {key: _escaped(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_escaped(below) for below in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
