"""A carrier that publishes records to an exchange of an AMQP 0.9.1 broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from vision_infer.config.sinks import AmqpSettings
from vision_infer.sink.delivery.bus import BusMessage, LoopBusCarrier
from vision_infer.sink.delivery.carrier import CarrierContext, Record, UndeliveredError
from vision_infer.sink.delivery.certificates import tls_context


def open_carrier(settings: AmqpSettings, _context: CarrierContext) -> AmqpCarrier:
    """Make the carrier of a sink."""
    return AmqpCarrier(settings)


class AmqpCarrier(LoopBusCarrier[AmqpSettings]):
    """Publishes each record with the routing key ``PREFIX.KIND.STREAM``, and waits for the confirmation of the broker.

    Messages are persistent and mandatory: a message that reaches no queue is returned by the broker, and sent again later.
    """

    ce_prefix = "cloudEvents:"

    def __init__(self, settings: AmqpSettings) -> None:
        super().__init__(settings)
        self._connection: Any = None
        self._exchange: Any = None

    def open(self, name: str) -> bool:
        """Connect, and check that the exchange exists."""
        for library in ("aiormq", "aio_pika"):
            logging.getLogger(library).setLevel(logging.CRITICAL)  # the sink logs each problem once
        self.close()
        self._name = name
        context = tls_context(self._where, self._settings.ca, self._settings.client_files) if self._settings.tls else None
        try:
            self._run(self._connect(context), self.connect_s)
        except Exception as error:
            raise self._problem(error) from error
        return True

    async def _connect(self, context: Any) -> None:
        import aio_pika

        settings = self._settings
        ((host, port),) = settings.hosts
        self._connection = await aio_pika.connect(
            host=host,
            port=port,
            login=settings.username or "guest",
            password="guest" if settings.username is None else self._password or "",
            virtualhost=settings.path or "/",
            ssl=settings.tls,
            ssl_context=context,
            client_properties={"connection_name": "vision-infer"},
            timeout=self.connect_s,
        )
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        self._exchange = await channel.get_exchange(settings.exchange, ensure=True)

    def deliver(self, records: Sequence[Record]) -> None:
        """Publish the records, and wait until the broker has confirmed them all."""
        try:
            self._run(self._in_order(records, self._publish), self.acknowledge_s)
        except TimeoutError as error:
            raise self._unacknowledged() from error
        except Exception as error:
            raise self._problem(error) from error

    async def _publish(self, message: BusMessage) -> None:
        import aio_pika

        await self._exchange.publish(
            aio_pika.Message(
                message.body,
                headers=dict(message.headers),
                content_type=message.content_type,
                message_id=message.id,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            ),
            message.subject(self._settings.prefix),
            timeout=self.acknowledge_s,
        )

    def _problem(self, error: Exception) -> UndeliveredError:
        from aio_pika import exceptions as problems

        name, text = self._settings.exchange, " ".join(str(error).split())
        if isinstance(error, problems.PublishError):
            hint = f"Bind a queue to it with the routing key {self._settings.prefix}.#"
            return UndeliveredError(f"{self._where}: the exchange {name} has no queue for these rows", hint)
        if isinstance(error, problems.DeliveryError):
            return UndeliveredError(f"{self._where}: the broker refused a row", "Check the limits of the queue.")
        if isinstance(error, problems.ChannelNotFoundEntity):
            hint = "Create it, or set exchange to another one."
            return UndeliveredError(f"{self._where}: the exchange {name} does not exist", hint, patient=True)
        if isinstance(error, problems.AuthenticationError | problems.ProbableAuthenticationError):
            hint = "Check username and password."
            return UndeliveredError(f"{self._where}: the broker refused the connection: wrong login", hint, patient=True)
        if isinstance(error, problems.ChannelPreconditionFailed):  # for example, a message that is too large
            return UndeliveredError(f"{self._where}: the broker refused a row: {text}", hung_up=True)
        refused_host = "OpenOk" in text  # the library expects this answer, and drops the reason of another
        if refused_host:
            text = f"opening the virtual host {self._settings.path or '/'}"
        if refused_host or isinstance(error, problems.ConnectionClosed | problems.AMQPChannelError):
            hint = "Check the virtual host, and the permissions of the user."
            return UndeliveredError(f"{self._where}: the broker refused a command: {text}", hint, patient=True)
        return self._unreachable(error)

    def poll(self) -> None:
        """Let the library answer the broker, and notice a lost connection."""
        self._run(asyncio.sleep(0.001), self.connect_s)
        if self._connection.is_closed:
            raise UndeliveredError(f"{self._where}: the connection is lost")

    def close(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                self._run(connection.close(), 1.0)
        self._stop()
