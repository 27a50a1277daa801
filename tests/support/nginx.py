"""A real nginx with the configuration of docs/how-to/deploy.md."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.media import ROOT
from tests.support.waiting import wait_until

_BLOCKS = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs/how-to/deploy.md").read_text(encoding="utf-8"), re.DOTALL)


@contextmanager
def nginx(folder: Path, service_port: int, path: str) -> Iterator[str]:
    """Serve a service under a path of another port; return the URL.

    Args:
        folder: An empty folder for nginx.
        service_port: The port of the service on this machine.
        path: The path, with a slash at both ends.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed; run: make packages")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site = _BLOCKS[0]
    mapped = site.partition("server {")[0]
    headers = site.partition("proxy_pass http://127.0.0.1:8080;")[2].partition("}")[0]
    kept = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    location = f"location {path} {{ proxy_pass http://127.0.0.1:{service_port}/; {headers} }}"
    server = f"server {{ listen 127.0.0.1:{port}; {location} }}"
    file = folder / "nginx.conf"
    log = f"error_log {folder}/error.log; pid {folder}/nginx.pid; daemon off;"
    file.write_text(f"{log} events {{}} http {{ access_log {folder}/access.log; {kept} {mapped} {server} }}")
    process = subprocess.Popen([program, "-c", str(file), "-p", str(folder), "-e", str(folder / "error.log")])
    try:
        wait_until(lambda: _listens(port), "nginx to listen")
        yield f"http://127.0.0.1:{port}{path.rstrip('/')}"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
