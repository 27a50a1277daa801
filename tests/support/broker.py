"""A real MQTT broker (mosquitto) that a test starts, kills and starts again; and one who listens."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.waiting import wait_until

LIMIT_S = 60.0
"""how long anything may take, on a busy machine"""
USER, PASSWORD = "cameras", "a-secret-of-the-broker"


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Authority:
    """Makes certificates; :attr:`ca` is its own."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        certificate = own.add_extension(usage, True).sign(self._key, hashes.SHA256())
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 30) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
        )

    def issue(self, host: str, days: int = 30) -> tuple[Path, Path]:
        """Certificate and key for a host, PEM; with negative days it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            named: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            named = x509.DNSName(host)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = self._builder(subject, key, days).add_extension(x509.SubjectAlternativeName([named]), False)
        certificate = made.add_extension(issuer, False).sign(self._key, hashes.SHA256())
        paths = self._folder / f"{host}.{days}.pem", self._folder / f"{host}.{days}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain))
        return paths


class Broker:
    """mosquitto on a free port, until the context ends. It forgets everything when it is killed.

    Args:
        folder: of its files.
        tls: certificate and key.
        users: whether it wants :data:`USER` and :data:`PASSWORD`.
        more: lines of its settings.
    """

    def __init__(
        self, folder: Path, tls: tuple[Path, Path] | None = None, users: bool = False, more: tuple[str, ...] = ()
    ) -> None:
        if shutil.which("mosquitto") is None:
            pytest.skip("mosquitto is not here")
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "mosquitto.log"
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", f"allow_anonymous {'false' if users else 'true'}"]
        if os.getuid() == 0:  # else it becomes somebody who may not read the test's files
            lines.append("user root")
        lines += [*more, "max_queued_messages 0", "max_inflight_messages 0", "set_tcp_nodelay true"]
        if tls is not None:
            lines += [f"certfile {tls[0]}", f"keyfile {tls[1]}"]
        if users:
            passwords = folder / "passwords"
            passwords.touch(0o600)
            subprocess.run(["mosquitto_passwd", "-b", str(passwords), USER, PASSWORD], check=True, capture_output=True)
            lines.append(f"password_file {passwords}")
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; returns when it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["mosquitto", "-c", str(self._settings)], stdout=log, stderr=log)

        def listens() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                return False
            return True

        wait_until(listens, "the broker listens")

    def kill(self) -> None:
        """End it at once (SIGKILL), where it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Heard:
    """A message."""

    topic: str
    payload: str
    retained: bool
    """it was there before we listened"""

    @property
    def row(self) -> dict[str, Any]:
        """The payload, which is a JSON object."""
        row = json.loads(self.payload)
        assert isinstance(row, dict)
        return row


class Listener:
    """Hears all messages of a broker, with QoS 1, until the context ends. It comes back when the broker does.

    Args:
        broker: which.
        ca: what it trusts, with TLS.
        users: whether it has to say who it is.
    """

    def __init__(self, broker: Broker, ca: Path | None = None, users: bool = False) -> None:
        self.heard: list[Heard] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=True)
        self._client.reconnect_delay_set(1, 1)
        self._subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = self._hear
        if ca is not None:
            self._client.tls_set(str(ca))
        if users:
            self._client.username_pw_set(USER, PASSWORD)
        self._port = broker.port

    def _hear(self, client: Any, data: Any, message: Any) -> None:
        self.heard.append(Heard(message.topic, message.payload.decode(), message.retain))

    def __enter__(self) -> Listener:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        self.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait(self) -> None:
        """Until it listens (again)."""
        assert self._subscribed.wait(LIMIT_S)

    def of(self, topic: str) -> list[Heard]:
        """What came on a topic, in order; empty payloads too."""
        return [one for one in list(self.heard) if one.topic == topic]

    def last(self, topic: str) -> str | None:
        """The newest payload of a topic; None: nothing came."""
        found = self.of(topic)
        return found[-1].payload if found else None

    def retained(self) -> dict[str, str]:
        """What the broker retains, by topic, as far as was heard; detections and events are not."""
        newest = {one.topic: one.payload for one in list(self.heard) if not one.topic.endswith(("/detections", "/events"))}
        return {topic: payload for topic, payload in newest.items() if payload}
