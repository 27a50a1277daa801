"""The configuration of the service: its sources, and errors with file, line and field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from vision_infer.config.run import run_settings
from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.config.stream_policy import HookSettings
from vision_infer.config.validation_errors import SettingsError
from vision_infer.config.warnings import warnings_of
from vision_infer.core.errors import UsageError

Load = Callable[..., ServeSettings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def of(text: str, environ: Mapping[str, str] | None = None) -> ServeSettings:
        path = tmp_path / "cameras.yaml"
        path.write_text(text, encoding="utf-8")
        return load_settings(path, [], environ or {}, {})

    return of


def test_an_empty_configuration_is_valid() -> None:
    assert load_settings(None, [], {}, {}) == ServeSettings()


def test_streams_inherit_defaults(load: Load) -> None:
    settings = load(
        """\
defaults:
  fps: 5
  classes: [person]
  reconnect: {max_s: 10, attempts: 3}
streams:
  a: {url: "rtsp://192.0.2.1/a"}
  b:
    url: rtsp://192.0.2.1/b
    fps: null
    classes: [car]
    reconnect: {max_s: 20}
"""
    )
    a, b = settings.streams["a"], settings.streams["b"]
    assert (a.fps, a.classes, a.reconnect.max_s, a.reconnect.attempts) == (5, ("person",), 10, 3)
    assert (b.fps, b.classes, b.reconnect.max_s, b.reconnect.attempts) == (None, ("car",), 20, None)


def test_labels_of_nodes_are_text(load: Load) -> None:
    settings = load("streams:\n  a: {url: 'test://', node_labels: {site: berlin, gpu: true}}\n")
    assert settings.streams["a"].node_labels == {"site": "berlin", "gpu": "true"}


def test_streams_keep_their_order_and_names_stay_text(load: Load) -> None:
    settings = load("streams:\n" + "".join(f"  {name}: {{url: 'test://'}}\n" for name in ("on", "12", "null", "2024-01-01", "a")))
    assert list(settings.streams) == ["on", "12", "null", "2024-01-01", "a"]


@pytest.mark.parametrize("text", ["", "# nothing yet", "streams:", "streams: {}", "defaults:", "---\n"])
def test_empty_sections_are_valid(load: Load, text: str) -> None:
    assert load(text) == ServeSettings()


def test_urls_become_streams_in_addition_to_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text("defaults: {fps: 5}\nstreams: {front: {url: 'test://'}}")
    settings = load_settings(path, ["rtsp://user:pw@192.0.2.7/front", "rtsp://u:${PW}@192.0.2.8/yard"], {"PW": "a/b"}, {})
    assert {name: stream.detect for name, stream in settings.streams.items()} == {
        "front": "test://",
        "192.0.2.7-front": "rtsp://user:pw@192.0.2.7/front",
        "yard": "rtsp://u:a%2Fb@192.0.2.8/yard",
    }
    assert settings.streams["yard"].fps == 5


def test_later_sources_take_precedence(tmp_path: Path) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text("model: a\nengine: a\ndevice: cpu\nservice: {port: 1, host: '::1'}")
    environ = {"VISION_INFER_ENGINE": "b", "VISION_INFER_DEVICE": "cuda:1", "VISION_INFER_SERVICE__PORT": "2"}
    settings = load_settings(path, [], environ, {"device": "cuda:2", "service.port": 3, "service.host": None})
    assert (settings.model, settings.engine, settings.device) == ("a", "b", "cuda:2")
    assert (settings.service.port, settings.service.host) == (3, "::1")


def test_aliases_and_merges_of_yaml_work(load: Load) -> None:
    settings = load("streams:\n  a: &a {url: 'test://', fps: 5}\n  b: {<<: *a, fps: 6}\n  c: *a\n")
    assert [stream.fps for stream in settings.streams.values()] == [5, 6, 5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n\nstreams:\n  front:\n    url: test://\n    fps: -1", "line 6: streams.front.fps: must be greater than 0, got -1"),
        (
            "streams: {front: {url: 'test://', confidence: 1.5}}",
            "streams.front.confidence: must be less than or equal to 1, got 1.5",
        ),
        ("streams: {front: {url: 'test://', transprot: udp}}", "streams.front.transprot: is unknown: did you mean transport?"),
        ("streams: {front: {url: 'test://', xyz: 1}}", "streams.front.xyz: is unknown; the valid names are"),
        ("streams: {front: {url: 'test://', transport: udpp}}", "transport: must be tcp or udp: did you mean udp?"),
        ("streams: {front: {url: 'test://', transport: 5}}", "line 1: streams.front.transport: must be tcp or udp"),
        ("streams: {front: {url: 'test://', enabled: maybe}}", "streams.front.enabled: must be true or false"),
        ("streams: {front: {url: 'test://', classes: person}}", "streams.front.classes: must be a list"),
        ("streams: {front: {url: 'test://', classes: [5]}}", "streams.front.classes.0: must be text"),
        ("streams: {front: {url: 'test://', fps: fast}}", "streams.front.fps: must be a number"),
        ("streams: {front: {url: 'test://', fps: .inf}}", "streams.front.fps: must be"),
        ("streams: {front: {url: 'test://', loop: true}}", "streams.front.loop: applies to files only"),
        ("streams: {front: {url: 'test://', degrade_detect: 'test://', tiles: {size: 640}}}", "degrade_detect: has fewer pixels"),
        ("streams: {front: {url: 'test://', tiles: {size: 640, overlap: 0.7}}}", "less than or equal to 0.5"),
        ("streams: {front: {url: 'test://', tiles: {rows: 2}}}", "needs either size, or rows and columns"),
        ("streams: {front: {url: 'test://', crop_region: true}}", "crop_region: needs a region with look polygons"),
        ("streams: {front: {url: 'test://', track: true, reidentify: {}}}", "reidentify: needs secondary"),
        ("streams: {front: {url: 'test://', secondary: looks, reidentify: 0.3}}", "reidentify: needs track"),
        (
            "{processes: 2, streams: {front: {url: 'test://', track: true, secondary: looks, reidentify: {across: yard}}}}",
            "streams.front.reidentify.across: cameras in several processes share no identities",
        ),
        ("streams: {front: {url: 'test://', degrade_detect: 'test://', min_size: 8}}", "degrade_detect: has fewer pixels"),
        (
            "streams: {front: {url: 'test://', degrade_detect: 'test://', lines: {gate: {from: [1, 2], to: [30, 40]}}}}",
            "degrade_detect: has fewer pixels",
        ),
        (
            "streams: {front: {url: a.mp4, degrade_detect: 'test://', loop: true}}",
            "degrade_detect: must be a file",
        ),
        ("streams: {front: {url: 'test://', reconnect: {min_s: 9, max_s: 1}}}", "reconnect.max_s: must not be less than min_s"),
        ("streams: {front: {url: 'test://', reconnect: {attempts: 0.5}}}", "reconnect.attempts: must be a whole number"),
        ("streams: {front: {fps: 5}}", "line 1: streams.front.detect: is missing"),
        ("streams: {front: {url: 'test://', detect: 'test://'}}", "streams.front.url: is unknown"),
        ("streams: {front: 'test://'}", "streams.front: must be a mapping of fields"),
        ("streams: {front: }", "streams.front: must be a mapping of fields"),
        ("streams: ['test://']", "streams: must be a mapping of names"),
        ("streams: {'front door': {url: 'test://'}}", "streams.front door: is not a valid name"),
        (
            "streams: {Front: {url: 'test://'}, front: {url: 'test://'}}",
            "streams: names must differ by more",
        ),
        ("service: {max_streams: 1}\nstreams: {a: {url: 'test://'}, b: {url: 'test://'}}", "line 2: streams: 2 exceed"),
        ("streams: {front: {url: 'rtps://192.0.2.1'}}", "streams.front.url: has an unknown scheme: did you mean rtsp"),
        ("streams: {front: {url: 'rtsp:/192.0.2.1'}}", "streams.front.url: needs two slashes after rtsp:"),
        (
            "streams: {front: {url: 'test://', zones: {door: {polygon: [[0, 0], [9, 9]]}}}}",
            "zones.door.polygon: must have at least 3 items",
        ),
        (
            "streams: {front: {url: 'test://', zones: {door: {polygn: []}}}}",
            "zones.door.polygn: is unknown: did you mean polygon?",
        ),
        ("streams: {front: {url: 'test://', lines: {door: {frm: [0, 0]}}}}", "lines.door.frm: is unknown: did you mean from?"),
        (
            "streams: {front: {url: 'test://', region: {look: [[[0, 0], [9, 9], [5, 5]]]}}}",
            "region.look.0: all points are on one line",
        ),
        ("service: {token: 12345678}", "service.token: must be text; quote a number or a word such as true"),
        ("service: {token: short}", "service.token: must have at least 8 characters"),
        ("service: {allow_networks: [10.0.0.1/8]}", "service.allow_networks.0: is not a valid network"),
        ("service: {allow_schemes: [gopher]}", "service.allow_schemes.0: unknown scheme; the valid ones are rtsp, rtsps"),
        ("service: {tls: {certificate: a.pem}}", "service.tls.key: is missing"),
        ("servce: {port: 1}", "line 1: servce: is unknown: did you mean service"),
        ("defaults: {url: 'test://'}", "defaults.url: is unknown"),
        ("defaults: {fps: -1}\nstreams: {a: {url: 'test://'}}", "line 1: defaults.fps: must be greater than 0, got -1"),
        ("defaults: [fps]", "defaults: must be a mapping of fields"),
        ("defaults:\n  loop: true\nstreams:\n  a: {url: 'test://'}", "line 2: streams.a.loop: applies to files only"),
        ("a: 1\na: 2", "line 2: a is a duplicate key"),
        ("streams:\n  a: {url: 'test://'}\n  a: {url: 'test://'}", "line 3: a is a duplicate key"),
        ("streams: {a: {url: 'test://', fps: 1, fps: 2}}", "line 1: fps is a duplicate key"),
        ("- a", "contains no streams"),
        ("streams", "contains no streams"),
        ("streams:\n  a: [", "is not valid YAML"),
        ("a: !!python/object:os.system x", "line 1: has an unknown tag"),
        ("a: !x y", "line 1: has an unknown tag"),
        ("a: &a [*a]", "nested too deeply"),
        ("model: 0x", "is unknown"),
        ("a: \x07", "is not valid YAML: it contains a control character"),
    ],
)
def test_an_error_names_the_file_line_and_field(load: Load, text: str, expected: str) -> None:
    if text == "model: 0x":  # text that starts like a number
        assert load(text).model == "0x"
        return
    with pytest.raises(UsageError) as caught:
        load(text)
    assert "cameras.yaml: " in caught.value.message
    assert expected in caught.value.message
    assert "\n" not in str(caught.value)


def test_up_to_ten_problems_are_reported_once_each(load: Load) -> None:
    streams = "".join(f"  cam{number}: {{url: 'test://', weight: 0}}\n" for number in range(30))
    with pytest.raises(SettingsError) as caught:
        load(f"modl: x\ndefaults: {{fps: -1}}\nstreams:\n{streams}")
    assert len(caught.value.problems) == 32
    message = caught.value.message
    assert message.startswith("32 problems: ")
    assert message.endswith("; and 22 more")
    assert message.count("defaults.fps") == 1
    assert [one.line for one in caught.value.problems] == [1, 2, *range(4, 34)]
    assert (caught.value.problems[2].field, caught.value.problems[2].location) == (
        "streams.cam0.weight",
        ("streams", "cam0", "weight"),
    )


def test_nested_aliases_are_limited(load: Load) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
    with pytest.raises(UsageError, match="too large"):
        load("\n".join(lines))


def test_a_deeply_nested_file_is_rejected(load: Load) -> None:
    with pytest.raises(UsageError, match="line 1: is nested too deeply"):
        load("a: " + "[" * 100_000)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "Is a directory"),
        (Path("a\0b"), "invalid file name"),
    ):
        with pytest.raises(UsageError, match=expected):
            load_settings(path, [], {}, {})
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 4_000_001)
    with pytest.raises(UsageError, match="larger than 4 MB"):
        load_settings(large, [], {}, {})
    large.write_bytes(b"a: b\n\xff")
    with pytest.raises(UsageError, match="line 2: is not UTF-8 text"):
        load_settings(large, [], {}, {})


def test_many_streams_are_read(load: Load) -> None:
    text = "service: {max_streams: 5000}\nstreams:\n" + "".join(
        f"  cam-{number}:\n    detect: rtsp://192.0.2.1/{number}\n    fps: 5\n    classes: [person, car]\n"
        for number in range(5000)
    )
    assert len(load(text).streams) == 5000


def test_options_and_urls_are_named_in_messages() -> None:
    with pytest.raises(UsageError, match=r"^--port: service.port: must be less than or equal to 65535, got 99999"):
        load_settings(None, [], {}, {"service.port": 99_999})
    with pytest.raises(UsageError, match=r"^URL 2 has an unknown scheme"):
        load_settings(None, ["test://", "gopher://h/x y"], {}, {})


def test_a_stream_with_zones_or_lines_is_tracked() -> None:
    assert not StreamSettings(detect="test://").tracked
    assert StreamSettings(detect="test://", track=True).tracked
    assert StreamSettings.model_validate({"url": "test://", "lines": {"a": {"from": [0, 0], "to": [9, 9]}}}).tracked


def test_hooks_have_a_short_and_a_long_form_and_the_folder_of_the_file(load: Load, tmp_path: Path) -> None:
    streams = load(
        "defaults: {hook: 'mine:count'}\n"
        "streams:\n"
        "  a: {url: 'test://'}\n"
        "  b: {url: 'test://', hook: 'mine:blur,process=true, timeout_s=2.5,on_error=drop'}\n"
        "  c: {url: 'test://', hook: ['mine:count', {call: plate-reader, folder: /opt/hooks}]}\n"
        "  d: {url: 'test://', hook: null}\n"
    ).streams
    count = HookSettings(call="mine:count", folder=tmp_path)
    blur = HookSettings(call="mine:blur", process=True, timeout_s=2.5, on_error="drop", folder=tmp_path)
    plates = HookSettings(call="plate-reader", folder=Path("/opt/hooks"))
    assert [streams[name].hook for name in "abcd"] == [(count,), (blur,), (count, plates), ()]
    for text, expected in (
        ("'mine:blur,process'", "hook.0: is not MODULE:FUNCTION; options follow as ,process=true"),
        ("'mine:blur,timeout_s=0'", "hook.0.timeout_s: must be greater than 0"),
        ("{call: 'mine:blur', on_error: stop}", "hook.0.on_error: must be pass or drop"),
        ("{process: true}", "hook.0.call: is missing"),
    ):
        with pytest.raises(SettingsError) as raised:
            load(f"streams: {{a: {{url: 'test://', hook: {text}}}}}")
        assert expected in str(raised.value)
    assert run_settings(sources=("a.mp4",), hook=("mine:count",)).hook == (HookSettings(call="mine:count"),)


def test_missing_files_are_warnings(tmp_path: Path) -> None:
    (tmp_path / "here.mp4").touch()
    settings = ServeSettings.model_validate(
        {
            "model_dir": tmp_path / "models",
            "service": {"tls": {"certificate": tmp_path / "here.mp4", "key": tmp_path / "key.pem"}},
            "streams": {
                "a": {"url": str(tmp_path / "here.mp4")},
                "b": {"url": f"file://{tmp_path}/here.mp4", "view": f"file://{tmp_path}/Geheim.mp4"},
                "c": {"url": "/dev/video77"},
                "d": {"url": "rtsp://192.0.2.1/x"},
            },
        }
    )
    assert warnings_of(settings) == [
        "streams.b.view: file not found; the service will keep retrying",
        "streams.c.detect: device not found; the service will keep retrying",
        f"service.tls.key: {tmp_path}/key.pem: file not found",
        f"model_dir: {tmp_path}/models: folder not found",
    ]
    assert warnings_of(ServeSettings()) == []


def test_files_among_the_urls_can_loop(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.touch()
    streams = load_settings(None, [str(clip), "rtsp://10.0.0.1/front"], {}, {}, loop=True).streams
    assert {name: stream.loop for name, stream in streams.items()} == {"clip": True, "front": False}
