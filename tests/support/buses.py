"""The message buses of the tests: Redis, NATS, RabbitMQ and Kafka, and readers of all their messages."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.broker import PASSWORD, USER
from tests.support.bus_broker import PREFIX, Arrived, BusBroker
from tests.support.free_port import free_port
from tests.support.kafka_cluster import KafkaCluster


class RedisServer(BusBroker):
    """Redis with an append-only file."""

    kind, scheme, tls_scheme, program = "redis", "redis", "rediss", "redis-server"

    def command(self) -> list[str]:
        port = ["--port", str(self.port)]
        if self.tls is not None:
            port = ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", str(self.tls[0])]
            port += ["--tls-key-file", str(self.tls[1]), "--tls-auth-clients", "no" if self.clients_ca is None else "yes"]
            port += ["--tls-ca-cert-file", str(self.clients_ca)] if self.clients_ca else ["--tls-ca-cert-dir", "/etc/ssl/certs"]
        rights = f"~{PREFIX}* +xadd +xlen +multi +exec +@connection"
        users = f"--requirepass {PASSWORD} --user {USER} on >{PASSWORD} {rights}".split()
        disk = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(self.folder)]
        return [self.program, "--bind", "127.0.0.1", *port, *disk, *(users if self.users else [])]

    def client(self) -> Any:
        """Return a client that may do everything."""
        import redis

        tls: dict[str, Any] = {}
        if self.tls is not None:
            tls = {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False}
            tls |= {"ssl_certfile": str(self.tls[0]), "ssl_keyfile": str(self.tls[1])}
        password = PASSWORD if self.users else None
        return redis.Redis(port=self.port, password=password, decode_responses=True, **tls)

    def messages(self) -> list[Arrived]:
        found = []
        with self.client() as client:
            for key in sorted(client.scan_iter(f"{PREFIX}*")):
                for _, fields in client.xrange(key):
                    row, content_type = json.loads(fields.pop("row")), fields.pop("content-type")
                    found.append(Arrived(fields["id"], key, fields, content_type, row))
        return found


class NatsServer(BusBroker):
    """NATS with JetStream and one stream for all subjects."""

    kind, scheme, tls_scheme, program = "nats", "nats", "tls", "nats-server"

    def __init__(
        self,
        folder: Path,
        tls: tuple[Path, Path] | None = None,
        users: bool = False,
        more: tuple[str, ...] = (),
        has_stream: bool = True,
    ) -> None:
        super().__init__(folder, tls, users)
        self._more, self._has_stream = more, has_stream

    def command(self) -> list[str]:
        lines = [f"listen: 127.0.0.1:{self.port}", f'jetstream {{ store_dir: "{self.folder}" }}']
        if self.tls is not None:
            verify = "" if self.clients_ca is None else f', ca_file: "{self.clients_ca}", verify: true'
            lines.append(f'tls {{ cert_file: "{self.tls[0]}", key_file: "{self.tls[1]}"{verify} }}')
        if self.users:
            lines.append(f'authorization {{ user: "{USER}", password: "{PASSWORD}" }}')
        file = self.folder / "nats.conf"
        file.write_text("\n".join([*lines, *self._more]) + "\n", encoding="utf-8")
        return [self.program, "--config", str(file)]

    def run(self, use: Callable[[Any], Any]) -> Any:
        """Call an asynchronous function with a connected client, and return its result."""
        import nats

        tls = None
        if self.tls is not None:
            tls = ssl.create_default_context()
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            tls.load_cert_chain(*self.tls)
        login: dict[str, Any] = {"user": USER, "password": PASSWORD} if self.users else {}

        async def connected() -> Any:
            client = await nats.connect(self.url, tls=tls, **login)
            try:
                return await use(client)
            finally:
                await client.close()

        return asyncio.run(connected())

    def prepare(self) -> None:
        if self._has_stream:
            self.add_stream()

    def add_stream(self) -> None:
        """Create the stream."""
        self.run(lambda client: client.jetstream().add_stream(name="rows", subjects=[f"{PREFIX}.>"]))

    def messages(self) -> list[Arrived]:
        async def read(client: Any) -> list[Arrived]:
            stream = client.jetstream()
            last = (await stream.stream_info("rows")).state.last_seq
            found = []
            for number in range(1, last + 1):
                message = await stream.get_msg("rows", number)
                headers = dict(message.headers)
                identifier, content_type = headers.pop("Nats-Msg-Id"), headers.pop("Content-Type")
                found.append(Arrived(identifier, message.subject, headers, content_type, json.loads(message.data)))
            return found

        found: list[Arrived] = self.run(read)
        return found


class RabbitServer(BusBroker):
    """RabbitMQ, with a durable queue that is bound to the exchange ``amq.topic``."""

    kind, scheme, tls_scheme, program = "amqp", "amqp", "amqps", "/usr/lib/rabbitmq/bin/rabbitmq-server"

    def __init__(self, folder: Path, tls: tuple[Path, Path] | None = None, users: bool = False) -> None:
        super().__init__(folder, tls, users)
        self._epmd_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", "log.console = true", "log.file = false"]
        if self.tls is not None:
            lines[0] = f"listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{self.port}"
            lines += [f"ssl_options.certfile = {self.tls[0]}", f"ssl_options.keyfile = {self.tls[1]}"]
            if self.clients_ca is None:
                lines += ["ssl_options.verify = verify_none", "ssl_options.fail_if_no_peer_cert = false"]
            else:
                lines += ["ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = true"]
                lines.append(f"ssl_options.cacertfile = {self.clients_ca}")
        if self.users:
            lines += [f"default_user = {USER}", f"default_pass = {PASSWORD}"]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [self.program]

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }

    def start(self) -> None:
        # The server would start Erlang's port mapper as a daemon, which outlives the test.
        self._epmd = subprocess.Popen(["epmd", "-port", str(self._epmd_port)])
        super().start()

    def kill(self) -> None:
        process = self._process
        if process is not None:  # a shell, whose child is the server
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        super().kill()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.kill()
            epmd.wait()

    def run(self, use: Callable[[Any], Any]) -> Any:
        """Call an asynchronous function with a channel, and return its result."""
        import aio_pika

        tls = None
        if self.tls is not None:
            tls = ssl.create_default_context()
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            tls.load_cert_chain(*self.tls)
        login: dict[str, Any] = {"login": USER, "password": PASSWORD} if self.users else {}

        async def connected() -> Any:
            connection = await aio_pika.connect(
                host="127.0.0.1", port=self.port, ssl=tls is not None, ssl_context=tls, timeout=60, **login
            )
            async with connection:
                return await use(await connection.channel())

        return asyncio.run(connected())

    def prepare(self) -> None:
        async def bind(channel: Any) -> None:
            queue = await channel.declare_queue("rows", durable=True)
            await queue.bind("amq.topic", f"{PREFIX}.#")

        self.run(bind)

    def clear(self) -> None:
        """Delete all messages."""

        async def purge(channel: Any) -> None:
            await (await channel.declare_queue("rows", passive=True)).purge()

        self.run(purge)

    def messages(self) -> list[Arrived]:
        async def read(channel: Any) -> list[Arrived]:
            queue = await channel.declare_queue("rows", passive=True)
            found = []
            while (message := await queue.get(fail=False)) is not None:  # not acknowledged: it stays in the queue
                headers = {name: str(value) for name, value in message.headers.items()}
                body = json.loads(message.body)
                found.append(Arrived(message.message_id, message.routing_key, headers, message.content_type, body))
            return found

        found: list[Arrived] = self.run(read)
        return found


BUSES: dict[str, type[BusBroker]] = {
    "amqp": RabbitServer,
    "kafka": KafkaCluster,
    "nats": NatsServer,
    "redis": RedisServer,
}
