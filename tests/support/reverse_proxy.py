"""Real reverse proxies with TLS, started with the example files of deploy/proxy."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.broker import Authority
from tests.support.free_port import free_port
from tests.support.media import ROOT
from tests.support.waiting import wait_until

NAME = "cameras.localhost"
"""The name of the host; browsers resolve it to a loopback address."""
PATH = "/vision"
EXAMPLES = {"nginx": ROOT / "deploy/proxy/nginx.conf", "caddy": ROOT / "deploy/proxy/Caddyfile"}
LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class ReverseProxy:
    """A proxy that runs."""

    port: int
    plain_port: int
    """The port without TLS."""
    tls: ssl.SSLContext
    """The settings of a client that trusts the certificate of the proxy."""

    @property
    def url(self) -> str:
        """The URL of the service behind the proxy."""
        return f"https://{NAME}:{self.port}{PATH}"

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """Return a new connection without TLS.

        Args:
            source: The address of the client.
        """
        return socket.create_connection(("127.0.0.1", self.port), LIMIT_S, (source, 0))

    def client(self, source: str = "127.0.0.1") -> http.client.HTTPSConnection:
        """Return a connected HTTP client."""
        client = http.client.HTTPSConnection(NAME, self.port, timeout=LIMIT_S)
        client.sock = self.tls.wrap_socket(self.connect(source), server_hostname=NAME)
        return client


@contextmanager
def reverse_proxy(program: str, folder: Path, service_port: int) -> Iterator[ReverseProxy]:
    """Serve a service under a path of a host name, with the example file of a program.

    Args:
        program: ``nginx`` or ``caddy``.
        folder: An empty folder for the files of the program.
        service_port: The port of the service on this machine.
    """
    binary = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if binary is None:
        pytest.skip(f"{program} is not installed; run: make packages")
    authority = Authority(folder / "certificates")
    chain, key = authority.issue(NAME)
    port, plain_port = free_port(), free_port()
    text = replaced(
        EXAMPLES[program].read_text(encoding="utf-8"),
        {
            "/etc/ssl/cameras.example.org.pem": str(chain),
            "/etc/ssl/cameras.example.org.key": str(key),
            "127.0.0.1:8080": f"127.0.0.1:{service_port}",
        },
    )
    file = folder / EXAMPLES[program].name
    command = [binary, "run", "--adapter", "caddyfile", "--config", str(file)]
    if program == "nginx":
        command = [binary, "-c", str(file), "-p", str(folder), "-e", str(folder / "error.log")]
        text = _nginx_file(text, folder, port, plain_port)
    else:
        site = {"cameras.example.org {": f"https://{NAME}:{port} {{\n\tbind 127.0.0.1\n"}
        text = f"{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{replaced(text, site)}"
    file.write_text(text, encoding="utf-8")
    environ = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), f"{program} to listen")
        assert process.poll() is None, (folder / "output.log").read_text()
        yield ReverseProxy(port, plain_port, ssl.create_default_context(cafile=authority.ca))
    finally:
        process.terminate()
        process.wait()


def replaced(text: str, values: dict[str, str]) -> str:
    """Replace parts of a file, each of which must be in it."""
    for old, new in values.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def _nginx_file(site: str, folder: Path, port: int, plain_port: int) -> str:
    """Return a complete configuration with a site, as /etc/nginx/nginx.conf includes it."""
    site = replaced(
        site,
        {
            "listen [::]:80;": "",
            "listen [::]:443 ssl;": "",
            "listen 80;": f"listen 127.0.0.1:{plain_port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "cameras.example.org": NAME,
        },
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    kept = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    log = f"error_log {folder}/error.log; pid {folder}/nginx.pid; daemon off;"
    user = "user root;" if os.getuid() == 0 else ""  # otherwise the worker may not write to the folder of the test
    return f"{user} {log} events {{}} http {{ access_log {folder}/access.log; {kept}\n{site}\n}}"


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
