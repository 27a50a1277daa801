"""Properties of all configurations: round trips are lossless, and messages never contain a secret."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.config.some_settings import SETTINGS, STREAMS
from tests.support.media import ROOT
from vision_infer.config.api_stream import stream_from_api
from vision_infer.config.serve import ServeSettings, ServiceSettings, StreamSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.core.errors import UsageError

SECRET = "Hunter2-geheim"


def written(value: Any) -> Any:
    """Return a value as a user writes it, with doubled dollar signs."""
    if isinstance(value, dict):
        return {key: written(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [written(below) for below in value]
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return value.replace("$", "$$") if isinstance(value, str) else str(value) if isinstance(value, Path) else value


def load_text(text: str, environ: dict[str, str] | None = None) -> ServeSettings:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cameras.yaml")
        path.write_text(text, encoding="utf-8")
        return load_settings(path, [], environ or {}, {})


@given(SETTINGS, st.booleans())
@settings(deadline=None)
def test_settings_survive_a_round_trip_through_the_file(before: ServeSettings, short: bool) -> None:
    data = written(before.model_dump(by_alias=True, exclude_defaults=short))
    assert load_text(yaml.safe_dump(data, default_flow_style=short, sort_keys=False)) == before


@given(STREAMS)
@settings(deadline=None)
def test_a_stream_is_the_same_over_the_api(data: dict[str, Any]) -> None:
    service = ServiceSettings(allow_schemes=("rtsp", "https", "rtmp", "srt", "test", "file", "dev"))
    if data.get("hook"):
        with pytest.raises(UsageError, match="hook"):
            stream_from_api(data, service)
        data["hook"] = None
    settled = StreamSettings.model_validate(data)
    if any("${" in (url or "") for url in (settled.detect, settled.view, settled.degrade_detect)):
        with pytest.raises(UsageError, match="a reference"):
            stream_from_api(data, service)
    else:
        assert stream_from_api(json.loads(json.dumps(data)), service) == settled


PLACES = [
    ("service", "token"),
    ("service", "host"),
    ("service", "port"),
    ("service", "allow_networks", 0),
    ("service", "tls"),
    ("service",),
    ("model",),
    ("workers",),
    ("defaults", "fps"),
    ("defaults", "classes"),
    ("defaults", "transport"),
    ("defaults",),
    ("streams", "front", "detect"),
    ("streams", "front", "view"),
    ("streams", "front", "degrade_detect"),
    ("streams", "front", "fps"),
    ("streams", "front", "enabled"),
    ("streams", "front", "clock"),
    ("streams", "front", "classes"),
    ("streams", "front", "per_class", "person"),
    ("streams", "front", "zones"),
    ("streams", "front", "zones", "door", "polygon", 0),
    ("streams", "front", "region", "look"),
    ("streams", "front", "reconnect"),
    ("streams", "front", "reconnect", "attempts"),
    ("streams", "front", "loop"),
    ("streams", "front", "passwrd"),
    ("streams", "front"),
    ("streams",),
    ("credentials", 0, "match"),
    ("credentials", 0, "password"),
    ("credentials", 0),
    ("credentials",),
    ("passwort",),
]
SHAPES = [
    "{}",
    "rtsp://user:{}@192.0.2.1/front",
    "rtsp://user:{}@@192.0.2.1:99999/front",
    "rtps://user:{}@192.0.2.1/front",
    "rtsp:/user:{}@192.0.2.1/front",
    "rtsp://user:{}/192.0.2.1",
    "rtsp://user:pass/{}@192.0.2.1/front",
    "https://192.0.2.1/x?token={}",
    "https://[192.0.2.1/{}",
    " rtsp://u:{}@h",
    "file:{}",
    "${{{}}}",
    "${{{}",
    "{}\0",
    "/dev/{}",
]


def put(place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a file that is valid except for one value."""
    data: dict[str, Any] = {"streams": {"front": {"detect": "rtsp://192.0.2.1/front"}}}
    at: Any = data
    for key, following in pairwise(place):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(at, list):
            at.append(empty)
            at = empty
        else:
            at = at.setdefault(key, empty)
    if isinstance(at, list):
        at.append(value)
    else:
        at[place[-1]] = value
    return data


@given(st.sampled_from(PLACES), st.sampled_from(SHAPES), st.booleans(), st.integers(0, 3), st.booleans())
@example(("streams", "front", "detect"), SHAPES[2], False, 0, False)
@settings(deadline=None, max_examples=400)
def test_messages_never_contain_a_secret(place: tuple[Any, ...], shape: str, by_reference: bool, wrap: int, broken: bool) -> None:
    secret = "${CAM}" if by_reference else SECRET
    if shape.startswith(("file:", "$")):  # names of files and variables are not secrets
        secret = "NO_SUCH"
    value: Any = shape.format(secret)
    value = [value, [value], {"a b": value}, [[value, 1]]][wrap]
    text = yaml.safe_dump(put(place, value)) + ("\n  - [" if broken else "")
    outcome: ServeSettings | UsageError
    try:
        outcome = load_text(text, {"CAM": SECRET})
    except UsageError as error:
        outcome = error
    if isinstance(outcome, UsageError):
        message = [str(outcome), repr(outcome), *map(str, getattr(outcome, "problems", ()))]
        assert not any(SECRET in one for one in message)
        assert outcome.__cause__ is None
        assert outcome.__context__ is None or outcome.__suppress_context__
    elif place[-1] in ("token", "detect", "view", "degrade_detect"):
        assert SECRET not in repr(outcome)
        assert SECRET not in str(outcome)


_WHOLE = sorted((ROOT / "streams").glob("*.yaml"))
_PIECES = [
    "${",
    "}",
    "$$",
    "file:",
    ":",
    "- ",
    "{",
    "[",
    "]",
    "&a ",
    "*a",
    "!",
    "@",
    '"',
    "'",
    "\n",
    "\t",
    "<<: ",
    "|",
    "---\n",
    ".nan",
    "\0",
    "9" * 5000,
]


@given(
    st.sampled_from(_WHOLE),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.sampled_from(_PIECES)), min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=150)
def test_a_damaged_file_is_read_or_rejected(path: Path, damages: list[tuple[float, int, str]]) -> None:
    text = path.read_text(encoding="utf-8")
    for where, cut, put_in in damages:
        at = round(where * len(text))
        text = text[:at] + put_in + text[at + cut :]
    with suppress(UsageError):
        load_text(text)


@pytest.mark.parametrize(
    "text",
    [
        f"streams: {{front: {{url: rtsp://u:{SECRET},{SECRET}@192.0.2.1/x}}}}",
        f"streams: {{front: {{url: rtsp://u:a,{SECRET}}}}}",
        f"streams: [rtsp://u:{SECRET}@192.0.2.1/x]",
        f"streams: rtsp://u:{SECRET}@192.0.2.1/x",
        f"streams: {{'rtsp://u:{SECRET}@192.0.2.1/x': null}}",
        f"service: {{token: *{SECRET}}}",
        f"service: {{token: !{SECRET} x}}",
        f"service: {{token: &{SECRET} a, token: b}}",
        f"service: {{token: '{SECRET}",
        f"service:\n\ttoken: {SECRET}",
        f"service: token: {SECRET}",
        f"service: {{token: %{SECRET}}}",
        f"service: {{token: @{SECRET}}}",
        f"service: {{token: `{SECRET}}}",
        f'service: {{token: "\\{SECRET}"}}',
        f"%{SECRET} x\n---\na: b",
        f"{SECRET}",
        f"[{SECRET}]",
        f"? [{SECRET}]\n: x",
        f"<<: {SECRET}",
        f"service: {{<<: [{SECRET}]}}",
    ],
)
def test_yaml_errors_never_contain_a_secret(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_text(text)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
