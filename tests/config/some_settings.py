"""Strategies for arbitrary valid settings of the service."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from vision_infer.config.serve import ServeSettings

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
CHARACTERS = st.characters(exclude_categories=["Cs"])
LABELS = st.text(CHARACTERS, min_size=1, max_size=12)
SCORES = st.floats(0, 1)
POSITIVE = st.floats(0.001, 100)
PASSWORDS = st.text(st.sampled_from("abcXYZ019$-._~!*{}"), max_size=12).filter(lambda text: "${" not in text)
URLS = st.one_of(
    st.sampled_from(["test://", "/dev/video0", "/a/b c.mp4", "clip $$1.mp4", "file:///x/y.mkv", "srt://:9000?mode=listener"]),
    st.builds("{}://user:{}@{}/{}".format, st.sampled_from(["rtsp", "https", "rtmp"]), PASSWORDS, NAMES, NAMES),
)
_TRIANGLES = st.sampled_from(
    [
        ((0.0, 0.0), (0.5, 0.1), (0.3, 1.0)),
        ((0.25, 0.5), (0.75, 0.5), (0.5, 0.9)),
        ((0.1, 0.1), (0.9, 0.1), (0.9, 0.8), (0.1, 0.8)),
    ]
)


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a mapping with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


_ZONES = st.dictionaries(
    NAMES,
    st.fixed_dictionaries({"units": st.just("relative"), "polygon": _TRIANGLES}, optional={"dwell_s": POSITIVE, "min_s": SCORES}),
)
_LINES = st.dictionaries(
    NAMES, st.fixed_dictionaries({"from": st.just((1, 2)), "to": st.tuples(st.integers(3, 900), st.floats(3, 900))})
)
HOOKS = st.fixed_dictionaries(  # without a folder, they would get that of the file
    {"call": LABELS, "folder": st.just("/a b")},
    optional={"timeout_s": POSITIVE, "process": st.booleans(), "on_error": st.sampled_from(["pass", "drop"])},
)
_REGIONS = st.none() | st.fixed_dictionaries({"units": st.just("relative"), "look": st.tuples(_TRIANGLES)})
STREAM_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "view": st.none() | URLS,
    "enabled": st.booleans(),
    "model": st.none() | LABELS,
    "degrade_detect": st.none() | URLS,
    "degrade_model": st.none() | LABELS,
    "fps": st.none() | POSITIVE,
    "gate": st.sampled_from([None, "motion"]),
    "gate_heartbeat_s": POSITIVE,
    "clips": st.none() | _some(pre_s=st.floats(0, 20), post_s=st.floats(0, 30), max_s=st.floats(50, 60)),
    "weight": POSITIVE,
    "confidence": st.none() | SCORES,
    "iou": st.none() | st.floats(0.01, 1),
    "classes": st.none() | st.lists(LABELS, max_size=3),
    "per_class": st.dictionaries(LABELS, SCORES, max_size=3),
    "min_size": POSITIVE,
    "region": _REGIONS,
    "tiles": st.none()
    | st.fixed_dictionaries({"rows": st.just(2), "columns": st.integers(1, 8)}, optional={"whole": st.booleans()}),
    "track": st.booleans(),
    "zones": _ZONES,
    "lines": _LINES,
    "hook": st.none() | HOOKS | st.lists(HOOKS, max_size=2),
    "transport": st.sampled_from(["tcp", "udp"]),
    "audio": st.booleans(),
    "open_timeout_s": POSITIVE,
    "max_age_ms": POSITIVE,
    "clock": st.sampled_from(["auto", "arrival", "camera"]),
    "keyframes_only": st.booleans(),
    "reconnect": _some(min_s=st.floats(0.1, 1), max_s=st.floats(1, 60), attempts=st.none() | st.integers(1, 9)),
}


def _fitting(stream: dict[str, Any]) -> dict[str, Any]:
    """Remove settings in pixels, which are invalid with smaller video."""
    pixels = stream.get("min_size") or stream.get("lines")
    return {key: value for key, value in stream.items() if not pixels or key != "degrade_detect"}


STREAMS = st.fixed_dictionaries({"detect": URLS}, optional=STREAM_FIELDS).map(_fitting)
SETTINGS = _some(
    service=_some(
        host=st.sampled_from(["0.0.0.0", "::1", "localhost"]),
        port=st.integers(0, 65_535),
        token=st.none() | st.text(CHARACTERS, min_size=8, max_size=20).filter(lambda text: text[:5] != "file:"),
        tls=st.none() | st.just({"certificate": "/a b.pem", "key": "k.pem"}),
        allow_networks=st.lists(st.sampled_from(["10.0.0.0/8", "fd00::/8"]), max_size=2),
        log_format=st.sampled_from(["human", "json"]),
    ),
    model=LABELS,
    model_dir=st.none() | st.sampled_from(["/models", "a b"]),
    workers=st.none() | st.integers(1, 256),
    clips=_some(dir=st.none() | st.just("/a b/clips"), max_mb=st.floats(1, 9), keep_days=POSITIVE, buffer_mb=st.floats(1, 9)),
    results=_some(jsonl=st.none() | LABELS, rotate_mb=POSITIVE, daily=st.booleans(), keep=st.integers(0, 9)),
    streams=st.dictionaries(NAMES, STREAMS, max_size=4).filter(
        lambda streams: len({name.lower() for name in streams}) == len(streams)
    ),
).map(ServeSettings.model_validate)
