"""A real MQTT broker (mosquitto) that a test can start, kill and restart, and a client that records all messages."""

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

from tests.support.free_port import free_port
from tests.support.waiting import wait_until

LIMIT_S = 60.0
"""The time limit for any step on a busy machine, in seconds."""
USER, PASSWORD = "cameras", "a-secret-of-the-broker"


class Authority:
    """A certificate authority; :attr:`ca` is its certificate."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        number = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())  # Python 3.13 verifies strictly (RFC 5280)
        certificate = own.add_extension(usage, True).add_extension(number, False).sign(self._key, hashes.SHA256())
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
        """Return a certificate and a key for a host, PEM; with negative days the certificate has expired."""
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
    """Runs mosquitto on a free port until the context ends. It loses all messages when it is killed.

    Args:
        folder: The folder of its files.
        tls: The certificate and the key.
        users: Whether it requires :data:`USER` and :data:`PASSWORD`.
        more: Additional lines of its settings.
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
        if os.getuid() == 0:  # otherwise it switches to a user that cannot read the files of the test
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
        """Start the broker; return when it accepts connections."""
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
        """Kill the broker (SIGKILL) if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Heard:
    """A received message."""

    topic: str
    payload: str
    retained: bool
    """Whether the broker sent it because it was retained before the subscription."""

    @property
    def row(self) -> dict[str, Any]:
        """The payload as a JSON object."""
        row = json.loads(self.payload)
        assert isinstance(row, dict)
        return row


class Listener:
    """Records all messages of a broker, with QoS 1, until the context ends. It reconnects after the broker restarts.

    Args:
        broker: The broker.
        ca: The trusted authority; turns TLS on.
        users: Whether to send the user name and the password.
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
        self.heard.append(Heard(message.topic, message.payload.decode(errors="surrogateescape"), message.retain))

    def __enter__(self) -> Listener:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        self.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait(self) -> None:
        """Wait until the subscription is active (again)."""
        assert self._subscribed.wait(LIMIT_S)

    def of(self, topic: str) -> list[Heard]:
        """Return the messages of a topic in order, including empty payloads."""
        return [message for message in list(self.heard) if message.topic == topic]

    def last(self, topic: str) -> str | None:
        """Return the newest payload of a topic; None if there is no message."""
        found = self.of(topic)
        return found[-1].payload if found else None

    def retained(self) -> dict[str, str]:
        """Return the retained payloads by topic, as far as they were received; detections and events are never retained."""
        passing = ("/detections", "/events")
        newest = {message.topic: message.payload for message in list(self.heard) if not message.topic.endswith(passing)}
        return {topic: payload for topic, payload in newest.items() if payload}
