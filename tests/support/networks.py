"""A service and a viewer on two machines with a router between them: network namespaces, veth pairs and nftables.

    service 172.18.0.2 -- 172.18.0.1 router 10.0.0.1 -- 10.0.0.2 viewer

The router is a firewall with few open ports, or a host whose bridge publishes ports of a container.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.waiting import wait_until

SERVICE = "172.18.0.2"
ROUTER = "10.0.0.1"
"""The address of the router for the viewer."""
_LINKS = """
link add eth0 netns {service} type veth peer name inside netns {router}
link add eth0 netns {viewer} type veth peer name outside netns {router}
-n {service} addr add 172.18.0.2/16 dev eth0
-n {router} addr add 172.18.0.1/16 dev inside
-n {router} addr add 10.0.0.1/24 dev outside
-n {viewer} addr add 10.0.0.2/24 dev eth0
-n {service} link set lo up
-n {viewer} link set lo up
-n {service} link set eth0 up
-n {router} link set inside up
-n {router} link set outside up
-n {viewer} link set eth0 up
-n {service} route add default via 172.18.0.1
-n {viewer} route add default via 10.0.0.1
"""
_CLONE_NEWNET = 0x40000000


class Networks:
    """The three namespaces until the context ends; the test is skipped where they are not permitted."""

    def __init__(self) -> None:
        self.service, self.router, self.viewer = (f"vi-{os.getpid()}-{name}" for name in ("service", "router", "viewer"))

    def __enter__(self) -> Self:
        for program in ("ip", "nft"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed; run: make packages")
        try:
            for name in self._names:
                _run("ip", "netns", "add", name)
            _run("ip", "netns", "exec", self.router, "nft", "add", "table", "ip", "network")
        except subprocess.CalledProcessError:
            self._remove()
            pytest.skip("network namespaces are not permitted here")
        # An interface gets an IPv6 address a second after its start. Chromium sees a change of the network and gives up the
        # requests that it has sent, such as those for the parts of a page.
        for name in self._names:
            with inside(name):
                setting = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
                if setting.exists():
                    setting.write_text("1", encoding="ascii")
        for line in _LINKS.format(service=self.service, router=self.router, viewer=self.viewer).strip().splitlines():
            _run("ip", *line.split())
        with inside(self.router):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
        wait_until(lambda: all(b"state UP" in _run("ip", "-n", name, "link") for name in self._names), "the interfaces are up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    @property
    def _names(self) -> tuple[str, str, str]:
        return self.service, self.router, self.viewer

    def _remove(self) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def route(self, *ports: str) -> None:
        """Let viewers reach these ports of the service, such as ``8189/udp``. The service cannot connect to viewers."""
        self._filter(f"ip daddr {SERVICE} {kind} dport {port} accept" for port, kind in _split(ports))

    def publish(self, *ports: str) -> None:
        """Forward these ports of the router to the service, as Docker does: the service has another address for viewers.

        Viewers cannot reach the address of the service itself. The service reaches them with the address of the router.
        """
        targets = "\n".join(f"ip daddr {ROUTER} {kind} dport {port} dnat to {SERVICE}" for port, kind in _split(ports))
        self._filter(
            ["ct status dnat accept", "iifname inside accept"],
            f"""
            chain published {{ type nat hook prerouting priority dstnat;
                {targets}
            }}
            chain outgoing {{ type nat hook postrouting priority srcnat;
                ip saddr 172.18.0.0/16 oifname outside masquerade
            }}""",
        )

    def _filter(self, accepted: Iterable[str], more: str = "") -> None:
        rules = "\n".join(accepted)
        text = f"""
        flush ruleset
        table ip network {{
            chain forward {{ type filter hook forward priority filter; policy drop;
                ct state established,related accept
                {rules}
            }}{more}
        }}"""
        _run("ip", "netns", "exec", self.router, "nft", "-f", "-", text=text)


def _split(ports: Iterable[str]) -> Iterator[tuple[str, str]]:
    for one in ports:
        port, _, kind = one.partition("/")
        yield port, kind


def _run(*command: str, text: str = "") -> bytes:
    return subprocess.run(command, input=text.encode(), check=True, capture_output=True).stdout


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Use a namespace for the sockets that this thread opens, and for the processes and threads that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(namespace: int) -> None:
        if libc.setns(namespace, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    before, wanted = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        enter(wanted)
        yield
    finally:
        enter(before)
        os.close(before)
        os.close(wanted)
