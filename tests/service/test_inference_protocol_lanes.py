"""The Open Inference Protocol v2 in the lanes of cameras: batches, deadlines, limits and failures."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from tests.pipeline.fakes import LONG_S, EchoEngine, box_of, wait_for
from tests.pipeline.live_fakes import Camera
from tests.service.fakes import OPEN
from tests.service.protocol_site import ALL, ON, STATUS, Served, marked, site
from tests.service.site import Engines, Site, engines, settings, wanted
from tests.support.waiting import wait_until
from vision_infer.engine.engine import RawResults, Ticket
from vision_infer.service.results.requests import MAX_WAITING

__all__ = ["engines", "site"]


class Gate:
    """Stops the engines in their next batches, which it records, until it opens."""

    def __init__(self, engines: Engines) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        """The (client, number) of the images of each batch, in the order of their start."""
        self.entered = threading.Event()
        self.open = threading.Event()
        engines.run = self._run

    def _run(self, model: str, batch: list[tuple[int, int]]) -> None:
        self.batches.append(batch)
        self.entered.set()
        wait_for(self.open)


def waiting(served: Served) -> int:
    return sum(len(source._futures) for source in served.service._lanes._sources.values())


@ALL
def test_a_request_ends_at_its_deadline_and_is_not_inferred_later(kind: str, engines: Engines, site: Served) -> None:
    gate = Gate(engines)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(site.infer, kind, marked(*range(30), client=9))  # more than the pipeline takes at once
        wait_for(gate.entered)
        message = site.fails(504, kind, lambda client: client.infer(marked(77, client=8), timeout=30_000))
        assert message == "the deadline has passed before there was a result. Allow more time, or send fewer requests."
        if kind != "http":
            with site.client(kind) as client, pytest.raises(InferenceServerException) as caught:
                client.infer(marked(77, client=8), client_timeout=0.05)
            assert caught.value.status() == STATUS[504]
            wait_until(lambda: waiting(site) == 30, lambda: f"{waiting(site)} images wait")
        gate.open.set()
        assert first.result(LONG_S).as_numpy("boxes").shape == (30, 1, 4)
        assert site.infer(kind, marked(5)).as_numpy("boxes").shape == (1, 1, 4)
    assert all(client != 8 for batch in gate.batches for client, _ in batch)


@ALL
def test_requests_are_refused_while_too_many_images_wait(kind: str, engines: Engines, site: Served) -> None:
    gate = Gate(engines)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(site.infer, kind, marked(*range(MAX_WAITING)))
        wait_for(gate.entered)
        wait_until(lambda: waiting(site) == MAX_WAITING)
        assert "64 images are already waiting" in site.fails(429, kind, lambda client: client.infer(marked(1)))
        gate.open.set()
        boxes = first.result(LONG_S).as_numpy("boxes")
        assert boxes[:, 0].tolist() == [box_of(0, number) for number in range(MAX_WAITING)]
        assert site.infer(kind, marked(1)).as_numpy("boxes").shape == (1, 1, 4)


def test_requests_and_a_camera_share_batches_and_the_camera_is_not_delayed(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = EchoEngine.collect

    def ten_ms_each(engine: EchoEngine, ticket: Ticket) -> RawResults:
        return RawResults(collect(engine, ticket).outputs, 0, 10_000_000 * len(ticket.state))

    monkeypatch.setattr(EchoEngine, "collect", ten_ms_each)
    camera = Camera(0)
    with Site(camera, of=settings(service=ON, workers=1)) as running, Served(running.service, OPEN) as served:
        running.service.create("s0", wanted(camera))
        running.give(camera)
        gate = Gate(engines)
        clients = [(kind, number) for kind in ("http", "grpc") for number in range(8)]
        with ThreadPoolExecutor(len(clients)) as pool:

            def ask(kind: str, number: int) -> Any:
                return served.infer(kind, marked(number, client=100 if kind == "http" else 101)).as_numpy("boxes")

            answers = [pool.submit(ask, *one) for one in clients]
            wait_until(lambda: waiting(served) == len(clients))
            wait_for(gate.entered)

            def inside() -> int:
                return served.service.lanes()[0].waiting + sum(map(len, gate.batches))

            wait_until(lambda: inside() == 12, lambda: f"the window of the requests to be full, it has {inside()}")
            camera.give()
            wait_until(lambda: inside() == 13, "the frame to wait")
            before = len(gate.batches)
            gate.open.set()
            for (kind, number), answer in zip(clients, answers, strict=True):
                assert answer.result(LONG_S)[0, 0].tolist() == box_of(100 if kind == "http" else 101, number)
        after = gate.batches[before:]
        assert any(client == 0 for batch in after[:2] for client, _ in batch), after
        assert any(len({client for client, _ in batch}) > 1 for batch in gate.batches), gate.batches
        wait_until(lambda: len(running.sink.indices("s0")) == 2)
        assert {name for name, _, _ in running.sink.written} == {"s0"}


@ALL
def test_a_failed_engine_and_a_stopped_service_are_reported(kind: str, engines: Engines, site: Served) -> None:
    def fail(model: str, batch: object) -> None:
        raise RuntimeError("out of memory")

    engines.run = fail
    assert "has no result" in site.fails(503, kind, lambda client: client.infer(marked(1)))
    engines.run = lambda model, batch: None
    with site.client(kind) as client:
        assert client.infer(marked(1)).as_numpy("scores").shape == (1, 1)
    site.service.close()
    assert "stopping" in site.fails(503, kind, lambda client: client.infer(marked(1)))
    with site.client(kind) as client:
        assert client.call("is_server_live")
        assert not client.call("is_server_ready")
