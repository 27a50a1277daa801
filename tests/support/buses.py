"""Real brokers of message buses that a test can start, kill and restart, and readers of all their messages."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.support.broker import PASSWORD, USER
from tests.support.free_port import free_port
from tests.support.waiting import wait_until

PREFIX = "vision-infer"


@dataclass(frozen=True)
class Arrived:
    """A message of a bus."""

    id: str
    """The identifier at the place that the bus has for it."""
    key: str
    """The place of the message: key, subject or routing key."""
    headers: dict[str, str]
    content_type: str
    body: dict[str, Any] = field(repr=False)

    @property
    def row(self) -> dict[str, Any]:
        """The row, also from an envelope."""
        row = self.body["data"] if "specversion" in self.body else self.body
        assert isinstance(row, dict)
        return row


class BusBroker:
    """A server on a free port of the loopback interface, with data that survives a kill; a context manager.

    Args:
        folder: The folder of its files.
        tls: The certificate and the key.
        users: Whether it requires :data:`USER` and :data:`PASSWORD`.
    """

    kind: str
    scheme: str
    tls_scheme: str
    program: str

    def __init__(self, folder: Path, tls: tuple[Path, Path] | None = None, users: bool = False) -> None:
        if shutil.which(self.program) is None:
            pytest.skip(f"{self.program} is not here")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tls = tls
        self.users = users
        self.port = free_port()
        self._log = folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """The URL for the settings of a sink."""
        return f"{self.scheme if self.tls is None else self.tls_scheme}://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        raise NotImplementedError

    def environment(self) -> dict[str, str] | None:
        """Return the environment of the server; None: that of the test."""
        return None

    def prepare(self) -> None:
        """Create what receives messages, after each start."""

    def messages(self) -> list[Arrived]:
        """Return all messages in the order of the broker."""
        raise NotImplementedError

    def numbers(self, stream: str = "door") -> list[int]:
        """Return the numbers of a stream's rows, without those of repeated ids."""
        first = {message.id: message.row["number"] for message in reversed(self.messages()) if message.row["stream"] == stream}
        return list(reversed(first.values()))

    def start(self) -> None:
        """Start the server; return when it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.folder, env=self.environment(), start_new_session=True
            )
        wait_until(self._listens, lambda: f"{self.program} listens: {self._log.read_text(errors='replace')[-2000:]}")
        self.prepare()

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-4000:]
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def suspend(self) -> None:
        """Stop the processes of the server: it accepts connections and does not answer."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the processes of the server."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server (SIGKILL) if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


class RedisServer(BusBroker):
    """Redis with an append-only file."""

    kind, scheme, tls_scheme, program = "redis", "redis", "rediss", "redis-server"

    def command(self) -> list[str]:
        port = ["--port", str(self.port)]
        if self.tls is not None:
            port = ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", str(self.tls[0])]
            port += ["--tls-key-file", str(self.tls[1]), "--tls-auth-clients", "no", "--tls-ca-cert-dir", "/etc/ssl/certs"]
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
            lines.append(f'tls {{ cert_file: "{self.tls[0]}", key_file: "{self.tls[1]}" }}')
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


class KafkaCluster(BusBroker):
    """The mock cluster of librdkafka with one broker, in this process. It keeps its messages while the broker is down."""

    kind, scheme, tls_scheme, program = "kafka", "kafka", "kafkas", "true"
    partitions = 4

    def __init__(self, folder: Path, tls: tuple[Path, Path] | None = None, users: bool = False) -> None:
        super().__init__(folder, tls, users)
        import confluent_kafka

        (library,) = Path(confluent_kafka.__file__).parent.parent.glob("confluent_kafka.libs/librdkafka-*")
        self._lib = ctypes.CDLL(str(library))
        for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
            getattr(self._lib, function).restype = ctypes.c_void_p
        self._lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        reason = ctypes.create_string_buffer(200)
        conf = ctypes.c_void_p(self._lib.rd_kafka_conf_new())
        self._lib.rd_kafka_conf_set(conf, b"log_level", b"0", reason, 200)
        self._handle = ctypes.c_void_p(self._lib.rd_kafka_new(0, conf, reason, 200))
        self._cluster = ctypes.c_void_p(self._lib.rd_kafka_mock_cluster_new(self._handle, 1))
        self._plain_port = int(self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode().rpartition(":")[2])
        self._lib.rd_kafka_mock_topic_create(self._cluster, PREFIX.encode(), self.partitions, 1)
        self._tls_port: KafkaPort | None = None
        if tls is None:
            self.port = self._plain_port
        else:
            self._tls_port = KafkaPort(tls, self.port, self._plain_port, users)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._tls_port is not None:
            self._tls_port.close()
        self._lib.rd_kafka_mock_cluster_destroy(self._cluster)
        self._lib.rd_kafka_destroy(self._handle)

    def start(self) -> None:
        self._lib.rd_kafka_mock_broker_set_up(self._cluster, 1)

    def hide_topic(self, name: str) -> None:
        """Answer that a topic is unknown."""
        self._lib.rd_kafka_mock_topic_set_error(self._cluster, name.encode(), 3)

    def kill(self) -> None:
        self._lib.rd_kafka_mock_broker_set_down(self._cluster, 1)

    def messages(self) -> list[Arrived]:
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer(
            {"bootstrap.servers": f"127.0.0.1:{self._plain_port}", "group.id": "test", "enable.partition.eof": True}
        )
        consumer.assign([TopicPartition(PREFIX, number, 0) for number in range(self.partitions)])
        found, ended = [], 0
        while ended < self.partitions:
            message: Any = consumer.poll(10)
            assert message is not None
            if message.error():
                ended += 1
                continue
            headers = {name: value.decode() for name, value in message.headers()}
            key = (message.key() or b"").decode()
            found.append(Arrived(headers["id"], key, headers, headers.pop("content-type"), json.loads(message.value())))
        consumer.close()
        return found


class RabbitServer(BusBroker):
    """RabbitMQ, with a durable queue that is bound to the exchange ``amq.topic``."""

    kind, scheme, tls_scheme, program = "amqp", "amqp", "amqps", "/usr/lib/rabbitmq/bin/rabbitmq-server"

    def __init__(self, folder: Path, tls: tuple[Path, Path] | None = None, users: bool = False) -> None:
        super().__init__(folder, tls, users)
        self._epmd_port = free_port()

    def command(self) -> list[str]:
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", "log.console = true", "log.file = false"]
        if self.tls is not None:
            lines[0] = f"listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{self.port}"
            lines += [f"ssl_options.certfile = {self.tls[0]}", f"ssl_options.keyfile = {self.tls[1]}"]
            lines += ["ssl_options.verify = verify_none", "ssl_options.fail_if_no_peer_cert = false"]
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

    def kill(self) -> None:
        process = self._process
        if process is not None:  # a shell, whose child is the server
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        super().kill()
        subprocess.run(["epmd", "-port", str(self._epmd_port), "-kill"], capture_output=True, check=False)

    def run(self, use: Callable[[Any], Any]) -> Any:
        """Call an asynchronous function with a channel, and return its result."""
        import aio_pika

        tls = None
        if self.tls is not None:
            tls = ssl.create_default_context()
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
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


class KafkaPort:
    """A port with TLS in front of a Kafka broker without. In what the broker answers, its port is replaced by this one.

    Args:
        tls: The certificate and the key.
        port: The port.
        plain_port: The port of the broker.
        users: Whether clients must log in with SASL PLAIN, which this port does in place of the broker.
    """

    def __init__(self, tls: tuple[Path, Path], port: int, plain_port: int, users: bool) -> None:
        self._users = users
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*tls)
        self._own = b"127.0.0.1" + port.to_bytes(4, "big")
        self._plain = b"127.0.0.1" + plain_port.to_bytes(4, "big")
        self._plain_port = plain_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with (
            suppress(OSError),
            self._context.wrap_socket(raw, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self._plain_port)) as broker,
        ):
            logged_in = not self._users
            while True:
                request = _frame(client)
                kind, correlation = int.from_bytes(request[:2], "big"), request[4:8]
                if kind == _SASL_HANDSHAKE:
                    answer = correlation + bytes(2) + (1).to_bytes(4, "big") + b"\0\5PLAIN"
                elif kind == _SASL_AUTHENTICATE:
                    logged_in = request.endswith(f"\0{USER}\0{PASSWORD}".encode())
                    answer = correlation + (0 if logged_in else 58).to_bytes(2, "big") + b"\xff\xff" + bytes(4)
                elif logged_in or kind == _API_VERSIONS:
                    broker.sendall(len(request).to_bytes(4, "big") + request)
                    answer = _frame(broker).replace(self._plain, self._own)
                    if kind == _API_VERSIONS and self._users:
                        answer = _with_sasl(answer)
                else:
                    return
                client.sendall(len(answer).to_bytes(4, "big") + answer)


_SASL_HANDSHAKE, _API_VERSIONS, _SASL_AUTHENTICATE = 17, 18, 36


def _with_sasl(answer: bytes) -> bytes:
    """Add the two requests of SASL to the requests that a broker supports (ApiVersions, version 0)."""
    if any(answer[4:6]):  # the mock cluster does not know a newer version
        return answer
    added = ((_SASL_HANDSHAKE, 1), (_SASL_AUTHENTICATE, 0))
    count = int.from_bytes(answer[6:10], "big") + len(added)
    entries = b"".join(kind.to_bytes(2, "big") + bytes(2) + newest.to_bytes(2, "big") for kind, newest in added)
    return answer[:6] + count.to_bytes(4, "big") + entries + answer[10:]


def _frame(source: socket.socket) -> bytes:
    """Return a request or an answer without its length."""
    return _exactly(source, int.from_bytes(_exactly(source, 4), "big"))


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


BUSES: dict[str, type[BusBroker]] = {
    "amqp": RabbitServer,
    "kafka": KafkaCluster,
    "nats": NatsServer,
    "redis": RedisServer,
}
