"""The mock cluster of librdkafka, also with TLS and a login in front of it."""

from __future__ import annotations

import ctypes
import json
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.broker import PASSWORD, USER
from tests.support.bus_broker import PREFIX, Arrived, BusBroker


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

    def __enter__(self) -> Self:
        if self._tls_port is not None and self.clients_ca is not None:
            self._tls_port.require_client(self.clients_ca)
        return super().__enter__()

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

    def require_client(self, ca: Path) -> None:
        """Accept only clients with a certificate of this authority."""
        self._context.load_verify_locations(ca)
        self._context.verify_mode = ssl.CERT_REQUIRED

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
