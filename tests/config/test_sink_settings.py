"""Settings of sinks: errors name the field and contain no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from vision_infer.config.serve import ServeSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.config.validation_errors import SettingsError
from vision_infer.config.warnings import warnings_of

KEY = "whsec_" + "A" * 32


def load(folder: Path, sinks: str, **environ: str) -> ServeSettings:
    file = folder / "cameras.yaml"
    file.write_text(f"streams: {{a: {{detect: 'test://'}}}}\nsinks:\n{sinks}", encoding="utf-8")
    return load_settings(file, [], environ, {})


def test_secrets_come_from_files_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("the-password\n", encoding="utf-8")
    text = """
  mqtt:
    house: {url: 'mqtts://broker.lan', username: me, password: 'file:password'}
  webhook:
    alarm:
      url: https://example.net/hook/${KEY}
      token: ${TOKEN}
      headers: {X-Api-Key: 'file:password'}
"""
    settings = load(tmp_path, text, TOKEN="the-token", KEY="the-key", VISION_INFER_SINKS__WEBHOOK__ALARM__SECRET=KEY)
    house, alarm = settings.sinks.mqtt["house"], settings.sinks.webhook["alarm"]
    assert house.password is not None
    assert house.password.get_secret_value() == "the-password"
    assert (house.tls, house.hosts) == (True, [("broker.lan", 8883)])
    assert alarm.token is not None
    assert alarm.token.get_secret_value() == "the-token"
    assert alarm.url == "https://example.net/hook/the-key"
    assert alarm.host == "https://example.net"
    assert alarm.headers["X-Api-Key"].get_secret_value() == "the-password"
    assert alarm.secret is not None
    shown = repr(settings)
    for secret in ("the-password", "the-token", "the-key", KEY):
        assert secret not in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mqtt: {a: {url: 'http://h'}}", "sinks.mqtt.a.url: must be mqtt://HOST:PORT"),
        ("mqtt: {a: {url: 'mqtt://me:the-secret@h'}}", "use the fields username and password"),
        ("mqtt: {a: {url: 'mqtt://h:70000'}}", "must be mqtt://HOST:PORT"),
        ("mqtt: {a: {url: 'mqtt://h', password: the-secret}}", "password: requires a username"),
        ("mqtt: {a: {url: 'mqtt://h', ca: x.pem}}", "ca: is valid for mqtts:// only"),
        ("mqtt: {a: {url: 'mqtt://h', prefix: 'a/#'}}", "sinks.mqtt.a.prefix"),
        ("mqtt: {a: {url: 'mqtt://h', prefix: 'a/'}}", "sinks.mqtt.a.prefix"),
        ("mqtt: {a: {url: 'mqtt://h', kinds: []}}", "sinks.mqtt.a.kinds"),
        ("mqtt: {a: {url: 'mqtt://h', kinds: [pictures]}}", "sinks.mqtt.a.kinds"),
        ("mqtt: {a: {url: 'mqtt://h', spool_mb: 0}}", "sinks.mqtt.a.spool_mb"),
        ("webhook: {a: {url: 'ftp://h/the-secret'}}", "must be http://HOST/… or https://HOST/…"),
        ("webhook: {a: {url: 'http://h:99999/the-secret'}}", "must be http://HOST/… or https://HOST/…"),
        ("webhook: {a: {url: 'http://[the-secret/'}}", "must be http://HOST/… or https://HOST/…"),
        ("webhook: {a: {url: 'https://me:the-secret@h/'}}", "without a user and password"),
        ("webhook: {a: {url: 'https://h/', secret: the-secret}}", "must be whsec_ and at least 16 bytes in base64"),
        ("webhook: {a: {url: 'https://h/', headers: {'X: Y': the-secret}}}", "sinks.webhook.a.headers"),
        ("webhook: {a: {url: 'https://h/', token: 'file:nowhere'}}", "the file nowhere cannot be read"),
        ("kafka: {a: {url: 'kafka://me:the-secret@h'}}", "must be kafka://HOST:PORT,HOST:PORT or, with TLS, kafkas://"),
        ("kafka: {a: {url: 'kafka://h:1,h:70000'}}", "sinks.kafka.a.url: must be kafka://HOST:PORT,HOST:PORT"),
        ("kafka: {a: {url: 'kafka://h', topic: 'a b'}}", "sinks.kafka.a.topic"),
        ("kafka: {a: {url: 'kafka://h', sasl: GSSAPI}}", "sinks.kafka.a.sasl: must be PLAIN or SCRAM-SHA-256 or SCRAM-SHA-512"),
        ("kafka: {a: {url: 'kafka://h', cloudevents: json}}", "sinks.kafka.a.cloudevents: must be binary or structured"),
        ("kafka: {a: {url: 'kafka://h', password: the-secret}}", "password: requires a username"),
        ("nats: {a: {url: 'nats://h/x'}}", "must be nats://HOST:PORT,HOST:PORT or, with TLS, tls://HOST:PORT,HOST:PORT"),
        ("nats: {a: {url: 'nats://h', ca: x.pem}}", "ca: is valid for tls:// only"),
        ("nats: {a: {url: 'nats://h', username: me, token: the-secret}}", "token: is valid without a username only"),
        ("nats: {a: {url: 'nats://h', prefix: 'a.*'}}", "sinks.nats.a.prefix"),
        ("nats: {a: {url: 'nats://h', cloudevents: binary}}", "sinks.nats.a.cloudevents: must be structured"),
        ("redis: {a: {url: 'redis://h/x'}}", "url: the path must be the number of a database"),
        ("redis: {a: {url: 'redis://h,i'}}", "must be redis://HOST:PORT/DB or, with TLS, rediss://HOST:PORT/DB"),
        ("redis: {a: {url: 'redis://h', max_rows: 0}}", "sinks.redis.a.max_rows"),
        ("amqp: {a: {url: 'amqp://h/v/w'}}", "must be amqp://HOST:PORT/VHOST or, with TLS, amqps://HOST:PORT/VHOST"),
        ("amqp: {a: {url: 'amqp://h', exchange: ''}}", "sinks.amqp.a.exchange: must not be empty"),
    ],
)
def test_an_invalid_sink_is_reported_with_its_field(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, f"  {line}\n")
    assert message in str(error.value)
    assert "the-secret" not in str(error.value)


def test_a_message_bus_has_hosts_a_path_and_secrets(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("the-password\n", encoding="utf-8")
    text = """
  kafka: {lake: {url: 'kafkas://k1,[::1]:9,k3', username: me, password: 'file:password'}}
  nats: {one: {url: 'tls://n1:4,n2', token: '${TOKEN}'}}
  redis: {one: {url: 'rediss://r/3', password: 'file:password'}}
  amqp: {one: {url: 'amqps://r/%2Fcameras'}}
"""
    settings = load(tmp_path, text, TOKEN="the-token")
    sinks = settings.sinks
    assert sinks.kafka["lake"].hosts == [("k1", 9093), ("::1", 9), ("k3", 9093)]
    assert sinks.nats["one"].hosts == [("n1", 4), ("n2", 4222)]
    assert (sinks.redis["one"].hosts, sinks.redis["one"].path) == ([("r", 6379)], "3")
    assert (sinks.amqp["one"].hosts, sinks.amqp["one"].path) == ([("r", 5671)], "/cameras")
    token, password = sinks.nats["one"].token, sinks.kafka["lake"].password
    assert token is not None
    assert password is not None
    assert (token.get_secret_value(), password.get_secret_value()) == ("the-token", "the-password")
    assert all(sink.tls for _, by_name in sinks for sink in by_name.values())
    for secret in ("the-password", "the-token"):
        assert secret not in repr(settings)


def test_a_bus_without_its_package_is_refused_with_line_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.config.sinks.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"line 4: sinks\.redis\.a: needs the package redis") as error:
        load(tmp_path, "  redis:\n    a: {url: 'redis://h'}\n")
    assert "Run: pip install '.[redis]'" in str(error.value)


@pytest.mark.parametrize("name", ["rows.csv", "{stream}.parquet"])
def test_an_archive_is_one_parquet_for_all_streams(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"results\.parquet"):
        load(tmp_path, f"  {{}}\nresults: {{parquet: '{name}'}}\n")


def test_a_missing_certificate_is_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    rule = "  notify: {b: {urls: ['json://h']}}\n"  # a sink without certificates
    settings = load(tmp_path, "  mqtt: {a: {url: 'mqtts://h', ca: /nowhere.pem}}\n" + rule)
    assert warnings_of(settings) == ["sinks.mqtt.a.ca: /nowhere.pem: file not found"]
