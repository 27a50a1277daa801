"""Settings from the environment, and references to secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from vision_infer.config.secrets.secret_references import expand
from vision_infer.config.serve import ServeSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.core.errors import UsageError

FILE = """\
streams:
  Front-Door:
    url: rtsp://192.0.2.1/front
    zones: {till: {units: relative, polygon: [[0, 0], [1, 0], [1, 1]]}}
  a__b: {url: "test://"}
"""


def load(folder: Path, text: str, **environ: str) -> ServeSettings:
    path = folder / "cameras.yaml"
    path.write_text(text)
    return load_settings(path, [], environ, {})


def test_each_field_can_be_set(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        FILE,
        VISION_INFER_MODEL="12",
        VISION_INFER_MODEL_DIR="/models",
        VISION_INFER_WORKERS="null",
        VISION_INFER_STATE_DIR="null",
        VISION_INFER_SERVICE__TOKEN="12345678$$ ${x}",
        VISION_INFER_SERVICE__ALLOW_NETWORKS="[10.0.0.0/8, 192.0.2.0/24]",
        VISION_INFER_RESULTS__JSONL="{stream}.jsonl",
        VISION_INFER_DEFAULTS__FPS="7.5",
        VISION_INFER_STREAMS__FRONT_DOOR__ENABLED="false",
        VISION_INFER_STREAMS__FRONT_DOOR__URL="rtsp://192.0.2.2/x # y".replace(" # y", "#y"),
        VISION_INFER_STREAMS__FRONT_DOOR__PER_CLASS="{traffic light: 0.5}",
        VISION_INFER_STREAMS__FRONT_DOOR__ZONES__TILL__DWELL_S="9",
        VISION_INFER_STREAMS__A__B__TRANSPORT="udp",
        VISION_INFER_HOME="/somewhere",
        VISION_INFER_ENGINE="",
        VISION_INFER_PORT_8080_TCP_ADDR="10.0.0.1",
        VISION_INFER_SERVICE_HOST="10.0.0.1",
        VISION_INFER_SERVICE_PORT_HTTP="8080",
        OTHER="x",
    )
    assert (settings.model, settings.model_dir, settings.engine) == ("12", Path("/models"), "auto")
    assert settings.service.token is not None
    assert settings.service.token.get_secret_value() == "12345678$$ ${x}"
    assert settings.service.allow_networks == ("10.0.0.0/8", "192.0.2.0/24")
    assert settings.results.jsonl == "{stream}.jsonl"
    front = settings.streams["Front-Door"]
    assert (front.fps, front.enabled, front.detect) == (7.5, False, "rtsp://192.0.2.2/x#y")
    assert front.per_class == {"traffic light": 0.5}
    assert front.zones["till"].dwell_s == 9
    assert settings.streams["a__b"].transport == "udp"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("VISION_INFER_SERVICE__PROT", "1", "is not a setting: did you mean VISION_INFER_SERVICE__PORT?"),
        ("VISION_INFER_SEVICE__PORT", "1", "is not a setting: did you mean VISION_INFER_SERVICE"),
        ("VISION_INFER_XYZ", "1", "is not a setting: valid names after VISION_INFER_ are MODEL_DIR, ENGINE"),
        ("VISION_INFER_STREAMS__FORNT_DOOR__FPS", "1", "did you mean VISION_INFER_STREAMS__FRONT_DOOR?"),
        ("VISION_INFER_STREAMS__FRONT_DOOR__FSP", "1", "did you mean VISION_INFER_STREAMS__FRONT_DOOR__FPS?"),
        ("VISION_INFER_MODEL__NAME", "1", "is not a setting: VISION_INFER_MODEL__ has no fields"),
        ("VISION_INFER_", "1", "is not a setting"),
        ("VISION_INFER_SERVICE__PORT", "-1", "service.port: must be greater than or equal to 0, got -1"),
        ("VISION_INFER_SERVICE__PORT", "Geheim", "service.port: must be a whole number"),
        ("VISION_INFER_SERVICE__PORT", "[Geheim", "is not valid YAML"),
        ("VISION_INFER_SERVICE__LOG_FORMAT", "jsn", "service.log_format: must be human or json: did you mean json?"),
        ("VISION_INFER_STREAMS__FRONT_DOOR__URL", "rtsp://u:Geheim@h:x/", "streams.Front-Door.url: has an invalid host or port"),
        ("VISION_INFER_SERVICE__TOKEN", "file:/no/such", "service.token: the file /no/such cannot be read: No such file"),
    ],
)
def test_an_error_names_its_variable(tmp_path: Path, variable: str, value: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, FILE, **{variable: value})
    assert caught.value.message.startswith(f"{variable}: ")
    assert expected in caught.value.message
    assert "Geheim" not in str(caught.value)


def test_ambiguous_names_are_rejected(tmp_path: Path) -> None:
    text = "streams: {a-b: {url: 'test://'}, a.b: {url: 'test://'}}"
    with pytest.raises(UsageError, match=r"is not a setting: is ambiguous: it could be a-b or a\.b"):
        load(tmp_path, text, VISION_INFER_STREAMS__A_B__FPS="1")


ENVIRON = {"PW": "p@ss/w:rd%41", "LOGIN": "us@r:p/w", "PLAIN": "abc", "URL": "rtsp://u:p@h/x", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("nothing", "nothing"),
        ("a$b$", "a$b$"),
        ("$$", "$"),
        ("$${PW}", "${PW}"),
        ("$$$$", "$$"),
        ("${PLAIN}-${PLAIN}$$", "abc-abc$"),
        ("${PW}", "p@ss/w:rd%41"),
        ("${URL}", "rtsp://u:p@h/x"),
        ("rtsp://user:${PW}@h/x", "rtsp://user:p%40ss%2Fw%3Ard%2541@h/x"),
        ("rtsp://${PLAIN}:${PW}@${PLAIN}:554/${PLAIN}", "rtsp://abc:p%40ss%2Fw%3Ard%2541@abc:554/abc"),
        ("rtsp://${LOGIN}@h/x", "rtsp://us%40r:p%2Fw@h/x"),
        ("rtsp://u:x$$${PW}@h", "rtsp://u:x$p%40ss%2Fw%3Ard%2541@h"),
        ("rtsp://h/${PW}", "rtsp://h/p@ss/w:rd%41"),
        ("https://h/x?token=${PW}&a=${PLAIN}", "https://h/x?token=p%40ss%2Fw%3Ard%2541&a=abc"),
        ("https://h/x?${PW}", "https://h/x?p@ss/w:rd%41"),
        ("rtsp://u:${file:secret}@h", "rtsp://u:f%20%C3%BC@h"),
        ("${file:secret}", "f ü"),
        ("[${EMPTY}]", "[]"),
    ],
)
def test_references_are_replaced_and_encoded_where_they_must_be(tmp_path: Path, text: str, expanded: str) -> None:
    (tmp_path / "secret").write_text("f ü\n", encoding="utf-8")
    assert expand(text, ENVIRON, tmp_path) == expanded


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("${NONE}", "the environment variable NONE is not set"),
        ("${", "a reference must be"),
        ("${}", "a reference must be"),
        ("${a b}", "a reference must be"),
        ("${PLAIN", "a reference must be"),
        ("${PLAIN:-x}", "a reference must be"),
        ("${file:}", "a reference must be"),
        ("${file:none}", "the file none cannot be read: No such file or directory"),
        ("${file:.}", "the file . cannot be read: Is a directory"),
        ("${file:empty}", "the file empty must contain the secret on one line"),
        ("${file:lines}", "the file lines must contain the secret on one line"),
        ("${file:bytes}", "the file bytes is not UTF-8 text"),
        ("${file:large}", "the file large must contain the secret on one line"),
    ],
)
def test_a_failed_reference_is_reported_with_field_and_line(tmp_path: Path, reference: str, expected: str) -> None:
    for name, data in (("empty", b"\n"), ("lines", b"Geheim\nb"), ("bytes", b"Geheim\xff"), ("large", b"Geheim" * 20_000)):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError) as caught:
        load(tmp_path, f"\nstreams:\n  front:\n    url: 'rtsp://u:{reference}@192.0.2.1/'", PLAIN="Geheim")
    assert f"cameras.yaml: line 4: streams.front.url: {expected}" in caught.value.message
    assert caught.value.message.count("streams.front.url") == 1
    assert "Geheim" not in str(caught.value)


def test_a_token_can_be_in_a_file_next_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-long-token\n")
    for text in (
        "service: {token: 'file:token'}",
        "service: {token: '${file:token}'}",
        f"service: {{token: 'file:{tmp_path}/token'}}",
    ):
        token = load(tmp_path, text).service.token
        assert token is not None
        assert token.get_secret_value() == "a-long-token"
    with pytest.raises(UsageError, match=r"service\.view_token: the file none cannot be read"):
        load(tmp_path, "service: {view_token: 'file:none'}")


def test_a_number_from_the_environment_is_not_displayed(tmp_path: Path) -> None:
    assert load(tmp_path, "service: {port: '${PORT}'}", PORT="81").service.port == 81
    with pytest.raises(UsageError) as caught:
        load(tmp_path, "service: {port: '${PORT}'}", PORT="987654")
    assert "987654" not in str(caught.value)
