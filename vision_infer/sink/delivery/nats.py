"""A carrier that publishes records to NATS JetStream."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from vision_infer.config.sinks import NatsSettings
from vision_infer.sink.delivery.bus import BusMessage, LoopBusCarrier
from vision_infer.sink.delivery.carrier import CarrierContext, Record, UndeliveredError, UnwantedError
from vision_infer.sink.delivery.certificates import tls_context

_TOO_LARGE = 10_054
"""The JetStream error code for a message that is larger than the stream allows."""


def open_carrier(settings: NatsSettings, _context: CarrierContext) -> NatsCarrier:
    """Make the carrier of a sink."""
    return NatsCarrier(settings)


class NatsCarrier(LoopBusCarrier[NatsSettings]):
    """Publishes each record to the subject ``PREFIX.KIND.STREAM``, and waits until JetStream has stored it.

    The header ``Nats-Msg-Id`` has the id of the record, so that JetStream drops a repeated one within its duplicate window.
    """

    def __init__(self, settings: NatsSettings) -> None:
        super().__init__(settings)
        self._token = None if settings.token is None else settings.token.get_secret_value()
        self._client: Any = None
        self._jetstream: Any = None
        self._lost: asyncio.Future[None] | None = None
        """Completes when the connection is lost."""

    def open(self, name: str) -> bool:
        """Connect to the first server that answers."""
        self.close()
        self._name = name
        tls = tls_context(self._where, self._settings.ca, self._settings.client_files) if self._settings.tls else None
        for number, (host, port) in enumerate(self._settings.hosts, 1):
            try:
                self._run(self._connect(host, port, tls), 3 * self.connect_s)
                return True
            except UndeliveredError:
                raise
            except Exception as error:
                self.close()
                if number == len(self._settings.hosts):
                    raise self._problem(error) from error
        return False

    async def _connect(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        from nats.aio.client import Client

        client = self._client = Client()
        lost = self._lost = asyncio.get_running_loop().create_future()

        async def fail(error: Exception) -> None:
            if not client.is_connected:  # otherwise the library would try again by itself
                raise error

        async def note_loss() -> None:
            if not lost.done():
                lost.set_result(None)

        def encrypted(secret: str | None) -> Callable[[], str] | None:
            """Return a function that returns a secret after the handshake: the library itself accepts a server without TLS.

            The same was fixed in its successor: https://github.com/nats-io/nats.py/pull/912
            """

            def reveal() -> str:
                self._require_tls(client)
                assert secret is not None
                return secret

            return None if secret is None else reveal

        limit: Any = self.connect_s  # the library declares whole seconds and accepts all
        await client.connect(
            f"{'nats' if tls is None else 'tls'}://{f'[{host}]' if ':' in host else host}:{port}",
            name="vision-infer",
            error_cb=fail,
            closed_cb=note_loss,
            disconnected_cb=note_loss,
            allow_reconnect=False,
            connect_timeout=limit,
            tls=tls,
            user=self._settings.username,
            password=None if self._settings.username is None else encrypted(self._password or ""),
            token=encrypted(self._token),
        )
        self._require_tls(client)
        self._jetstream = client.jetstream()

    def _require_tls(self, client: Any) -> None:
        if self._settings.tls and not getattr(client, "_server_info", {}).get("tls_required"):
            hint = "Configure TLS in the server, or use nats://."
            raise UndeliveredError(f"{self._where}: the server does not use TLS", hint, patient=True)

    def check(self) -> bool:
        """Connect, and ask which stream stores the subjects."""
        from nats.errors import Error
        from nats.js.errors import NotFoundError, ServiceUnavailableError

        try:
            self.open("doctor")
            subject = f"{self._settings.prefix}.detections.doctor"
            self._run(self._jetstream.find_stream_name_by_subject(subject), self.connect_s)
        except (NotFoundError, ServiceUnavailableError) as error:
            raise self._no_stream() from error
        except (Error, TimeoutError):
            pass  # this user may publish only
        finally:
            self.close()
        return True

    def deliver(self, records: Sequence[Record]) -> None:
        """Publish the records, and wait until JetStream has stored them all."""
        try:
            self._run(self._unless_lost(self._in_order(records, self._publish)), self.acknowledge_s)
        except TimeoutError as error:
            raise self._unacknowledged() from error
        except UndeliveredError:
            raise
        except Exception as error:
            raise self._problem(error) from error

    async def _publish(self, message: BusMessage) -> None:
        headers = message.headers | {"Nats-Msg-Id": message.id, "Content-Type": message.content_type}
        subject = message.subject(self._settings.prefix)
        await self._jetstream.publish(subject, message.body, timeout=self.acknowledge_s, headers=headers)

    async def _unless_lost(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine until the connection is lost: the library would wait for an answer until the timeout.

        Raises:
            UndeliveredError: The connection is lost.
        """
        assert self._lost is not None
        task = asyncio.ensure_future(coroutine)
        await asyncio.wait({task, self._lost}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            raise UndeliveredError(f"{self._where}: the connection is lost")
        task.result()

    def _no_stream(self) -> UndeliveredError:
        prefix = self._settings.prefix
        hint = f"Create one, for example: nats stream add vision-infer --subjects '{prefix}.>' --defaults"
        return UndeliveredError(f"{self._where}: no JetStream stream stores the subjects {prefix}.>", hint)

    def _problem(self, error: Exception) -> Exception:
        from nats import errors
        from nats.js.errors import APIError, NoStreamResponseError

        text = " ".join(str(error).split())
        if isinstance(error, NoStreamResponseError):
            return self._no_stream()
        if isinstance(error, errors.MaxPayloadError) or (isinstance(error, APIError) and error.err_code == _TOO_LARGE):
            return UnwantedError(f"{self._where}: the row is too large", "rejected_too_large")
        if isinstance(error, APIError):
            return UndeliveredError(f"{self._where}: JetStream refused a row: {error.description or text}")
        if "authorization violation" in text.lower() or isinstance(error, errors.AuthorizationError):
            what = "token" if self._token is not None else "username and password"
            return UndeliveredError(f"{self._where}: NATS refused the connection: wrong login", f"Check {what}.", patient=True)
        return self._unreachable(error)

    def poll(self) -> None:
        """Let the library answer the server, and notice a lost connection."""
        self._run(asyncio.sleep(0.001), self.connect_s)
        if not self._client.is_connected:
            raise UndeliveredError(f"{self._where}: the connection is lost")

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                self._run(client.close(), 1.0)
        self._stop()
