"""The worker of one node: a Ray actor that runs the service core as a child process, and relays requests to it.

The child is the worker process of ``serve --processes``. It gets its orders as lines of JSON and serves its part of the API on a
Unix socket. The kernel kills it when the actor's process ends, so that a new owner of its cameras is the only one.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from vision_infer.cluster.actors import find_controller, raise_priority
from vision_infer.cluster.rows import Batches, stamp_of, stamped_events
from vision_infer.cluster.state import Plain
from vision_infer.config.validation_errors import SettingsError
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.engine.device import cpu_facts
from vision_infer.service.operations.logs import with_worker
from vision_infer.service.processes.worker_client import WorkerClient, WorkerRequest
from vision_infer.service.processes.worker_process import WorkerProcess
from vision_infer.service.processes.worker_settings import (
    GivenStream,
    WorkerPlace,
    WorkerStart,
    settings_from_plain,
    settings_of,
    settings_to_plain,
    streams_from_plain,
    streams_to_plain,
)
from vision_infer.service.processes.workers import MOVE_AFTER
from vision_infer.service.streams.stream_files import state_folder

BATCH_S = 0.005
"""The minimum time between two batches of rows, seconds."""
ANSWER_S = 1.0
"""The time in which the child must answer a check, seconds."""
COST_S = 2.0
"""The time between two measurements of the cameras' cost, seconds."""
IDLE_S = 60.0
"""The time after which a response that no gateway reads is closed, seconds."""
RETRY_S = 0.2
PARTITION_S = 2.0
"""The time without an answer of the controller after which ``on_partition`` applies, seconds. It is less than
:data:`SILENCE_S`, so that the node stops its cameras before others get them."""
LEASE_S = 2.0
"""The time after which the child stops its cameras if this process has not extended the lease, seconds. It is less than
:data:`SILENCE_S`, after which other nodes get the cameras of a suspended node."""
HEAL_S = 5.0
"""The time for which cameras may be missing in the child, seconds."""
HUNG_S = 2.0
"""The time without an answer after which the child is killed if its cameras were placed elsewhere, seconds."""
WHOLE = 1 << 20
"""The size of a response up to which it is returned with the first call, bytes."""


class _Relayed:
    """A response of the child that a gateway reads piece by piece."""

    def __init__(self, response: httpx.Response, batches: Batches) -> None:
        self.response = response
        self.batches = batches
        self.read_s = time.monotonic()

    async def close(self) -> None:
        self.batches.cancel()
        with suppress(httpx.HTTPError, RuntimeError):
            await self.response.aclose()


class NodeWorker:
    """Runs the cameras of a node. All methods run on the actor's event loop.

    Args:
        name: The name of the node.
        cores: The number of its CPU cores.
        accelerator: The model of its GPU; empty if it has none.
    """

    def __init__(self, name: str, cores: float, accelerator: str) -> None:
        self._name = name
        if not raise_priority():
            self._log("this process has a low priority; set RAY_worker_niceness=0 for 'ray start'")
        self._id = secrets.token_hex(4)
        self._cores = cores
        self._kind = f"{cpu_facts()[0]} {accelerator}"
        os.umask(0o077)
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it to the number of CPUs of the actor, at least 1
        self._folder = Path(tempfile.mkdtemp(prefix="vision-infer-"))
        self._token = secrets.token_urlsafe(32)
        self._client = WorkerClient(self._folder / name, self._token)
        self._process = self._new_process()
        self._orders: Plain = {"settings": None, "cameras": {}}
        self._epochs: dict[str, int] = {}
        self._costs: dict[str, float] = {}
        self._cost_due_s = 0.0
        self._relayed: dict[str, _Relayed] = {}
        self._version = ("", -1)
        """The controller and version of the orders."""
        self._stops = 0
        """The number of times that the cameras were stopped without orders."""
        self._heard_s = self._answered_s = time.monotonic()
        self._listed: set[str] = set()
        """The cameras that the child ran when it answered last, and those that it got or lost since."""
        self._lease_until_ns = time.monotonic_ns() + int(LEASE_S * 1e9)
        self._complete_s = 0.0
        """The time at which the child ran all its cameras, or got orders."""
        self._obeying = asyncio.Lock()  # serializes changes of the orders; held until the child has answered
        loop = asyncio.get_running_loop()
        self._tasks = (loop.create_task(self._follow()), loop.create_task(self._watch()))

    # Requests of gateways

    async def begin(self, request: WorkerRequest) -> tuple[int, list[tuple[str, str]], bytes, str | None] | None:
        """Send a request to the child.

        Returns:
            The status, the headers, the body, and None; or for a longer response the beginning of the body, and the name by which
            :meth:`more` returns further parts. None if the child does not answer.
        """
        try:
            response = await self._client.send(request)
            events = response.headers.get("content-type", "").startswith("text/event-stream")
            if not events and int(response.headers.get("content-length", WHOLE + 1)) <= WHOLE:
                content = b"".join([piece async for piece in response.aiter_raw()])
                return response.status_code, list(response.headers.items()), content, None
        except httpx.HTTPError:
            return None
        pieces = response.aiter_raw()
        batches = Batches(stamped_events(pieces, self._name, self._epochs), BATCH_S) if events else Batches(pieces, 0.0)
        name = secrets.token_hex(8)
        self._relayed[name] = _Relayed(response, batches)
        return response.status_code, list(response.headers.items()), b"", name

    async def more(self, name: str) -> bytes | None:
        """Return the next part of a response, empty at its end; None if the child has ended or the response was closed."""
        relayed = self._relayed.get(name)
        if relayed is None:
            return None
        relayed.read_s = float("inf")
        try:
            batch = await relayed.batches.read()
        except (httpx.HTTPError, asyncio.CancelledError):
            batch = b""
            await self.close(name)
            return None
        relayed.read_s = time.monotonic()
        if not batch:
            await self.close(name)
        return batch

    async def close(self, name: str) -> None:
        """Close a response whose reader has gone."""
        relayed = self._relayed.pop(name, None)
        if relayed is not None:
            await relayed.close()

    # Orders of the controller

    async def _follow(self) -> None:
        """Report to the controller and obey it, until this process ends. Without the controller, the cameras go on."""
        controller: Any = None
        everything = False
        while True:
            try:
                if controller is None:
                    controller = await asyncio.to_thread(find_controller)
                report = await self._report(everything)
                answer = await asyncio.wait_for(controller.report.remote(self._name, report, self._version), ANSWER_S)
                self._heard_s = time.monotonic()
                everything = answer.get("everything", False)
                if answer.get("unknown", False):
                    await self._stop_cameras("this node is no longer part of the cluster")
                if "orders" in answer:
                    self._version = answer["version"]
                    await self._obey(answer["orders"])
            except Exception as error:  # noqa: BLE001 - the boundary of a task: the controller is away, or an order failed
                self._log(f"the controller cannot be reached, trying again: {type(error).__name__}")
                await asyncio.sleep(RETRY_S)
            await self._close_idle()

    async def _watch(self) -> None:
        """Extend the child's lease; stop the cameras after a suspension, and without the controller if the settings say so."""
        while True:
            await asyncio.sleep(RETRY_S)
            try:
                settings = self._orders["settings"]
                stops = settings is not None and settings["values"]["on_partition"] == "stop"
                alone = stops and time.monotonic() - self._heard_s > PARTITION_S
                if alone or time.monotonic_ns() > self._lease_until_ns:
                    await self._stop_cameras("the controller cannot be reached" if alone else "this process was suspended")
                self._lease_until_ns = time.monotonic_ns() + int(LEASE_S * 1e9)
                if self._process.up:  # it does not read before, and the pipe could fill
                    await asyncio.to_thread(self._process.send, json.dumps({"lease_until_ns": self._lease_until_ns}))
            except Exception as error:  # noqa: BLE001 - the boundary of a task: without it, the child would stop its cameras
                self._log(f"the streams cannot be stopped: {type(error).__name__}")

    async def _stop_cameras(self, why: str) -> None:
        if self._orders["cameras"]:
            self._log(f"{why}: the streams are stopped")
            self._stops += 1
            self._version = ("", -1)  # the controller gives the orders again
            await self._obey({"settings": self._orders["settings"], "cameras": {}})

    async def _report(self, everything: bool) -> Plain:
        alive, process = True, self._process
        if process.up:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._list()
                    self._find_stopped()
                    if time.monotonic() >= self._cost_due_s:
                        self._cost_due_s = time.monotonic() + COST_S
                        cost = await self._ask("/api/v1/cost")
                        self._costs = {one["name"]: self._cost_of(one) for one in cost["streams"] if one["result_fps"]}
            except (TimeoutError, httpx.HTTPError, ValueError, KeyError):
                alive = not process.up  # it ended just now, or it does not respond
        elif not process.running:
            self._listed.clear()
        report = {
            "kind": self._kind,
            "process": f"{self._id}-{process.starts}-{self._stops}" if process.starts else "",
            "alive": alive,
            "up": process.up,
            "ready": process.ready,
            "reason": process.reason if process.error is None else "it cannot start; its log in Ray's folder has the reason",
            "starts": process.starts,
            "failing": process.error is not None or process.failed_starts >= MOVE_AFTER,
            "running": sorted(self._listed | self._orders["cameras"].keys()),
            "costs": self._costs,
        }
        return report | {"cameras": self._orders["cameras"]} if everything else report

    def _find_stopped(self) -> None:
        """Request new epochs, and thus orders, if the child stopped cameras because the lease did not arrive in time."""
        missing = self._orders["cameras"].keys() - self._listed
        if missing and time.monotonic() - self._complete_s <= HEAL_S:  # a stream that was just deleted, or that starts
            return
        self._complete_s = time.monotonic()
        if missing:
            self._log(f"{len(missing)} streams do not run and are started again")
            self._stops += 1

    def _cost_of(self, stream: Plain) -> float:
        """Return the cores that a stream uses; a share of the GPU counts as the same share of the cores."""
        cpu: float = stream["decode_cores"] + stream["shared_cores"]
        return max(cpu, (stream["accelerator"] or 0.0) * self._cores)

    async def _list(self) -> None:
        self._listed = {stream["name"] for stream in await self._ask("/api/v1/streams")}
        self._answered_s = time.monotonic()

    async def _ask(self, target: str) -> Any:
        response = await self._client.send(WorkerRequest("GET", target))
        await response.aread()
        response.raise_for_status()
        return response.json()

    async def _obey(self, orders: Plain) -> None:
        async with self._obeying:
            await self._change(orders)

    async def _change(self, orders: Plain) -> None:
        if orders["settings"] is None:
            return
        before, self._orders = self._orders, orders
        self._complete_s = time.monotonic()
        self._epochs.clear()
        self._epochs.update({name: camera["epoch"] for name, camera in orders["cameras"].items()})
        if self._process.error is not None:  # with other settings, it may start
            self._process = self._new_process()
        try:
            start = self._start()
        except SettingsError as error:  # this node does not have an extra
            self._process.end()
            self._process = self._new_process()
            self._process.error = error
            self._log(f"the settings do not work on this node: {error}")
            return
        if self._process.starts == 0 and not self._process.running:
            self._process.start()
            return
        line = {
            "settings": settings_to_plain(start.settings),
            "streams": streams_to_plain(start.streams),
            "stamps": start.stamps,
            "removed": sorted(before["cameras"].keys() - orders["cameras"].keys()),
        }
        self._listed |= before["cameras"].keys()  # until the child reports that it has released them
        await asyncio.to_thread(self._process.send, json.dumps(line))
        if line["removed"]:  # the next report says that they are released
            await self._released(frozenset(line["removed"]))

    async def _released(self, names: frozenset[str]) -> None:
        if self._process.up and time.monotonic() - self._answered_s > HUNG_S:
            self._log("the process does not respond and is killed, because other nodes run its streams")
            self._process.kill()  # the kernel closes its connections
        with suppress(TimeoutError, httpx.HTTPError, ValueError):
            async with asyncio.timeout(ANSWER_S):
                while self._process.up and names & self._listed:
                    await asyncio.sleep(0.05)
                    await self._list()

    # The child

    def _new_process(self) -> WorkerProcess:
        return WorkerProcess(self._name, self._start_line, lambda _: None, self._log, SYSTEM_CLOCK)

    def _start_line(self) -> str:
        return self._start().to_json()

    def _start(self) -> WorkerStart:
        settings = settings_from_plain(self._orders["settings"])
        streams, place = streams_from_plain(self._orders["cameras"]), WorkerPlace(self._name, settings.device)
        own = {name: stream.settings for name, stream in streams.items() if stream.origin == "file"}
        given: dict[str, GivenStream] = {name: stream for name, stream in streams.items() if stream.origin != "file"}
        settings = settings_of(settings, place, 1, own, state_folder(settings.state_dir, os.environ))
        stamps = {name: stamp_of(self._name, camera["epoch"]) for name, camera in self._orders["cameras"].items()}
        return WorkerStart(self._name, self._folder / self._name, self._token, settings, given, None, stamps)

    def _log(self, line: str) -> None:
        sys.stderr.write(with_worker(line, self._name, "human") + "\n")
        sys.stderr.flush()

    async def _close_idle(self) -> None:
        for name, relayed in list(self._relayed.items()):
            if time.monotonic() - relayed.read_s > IDLE_S:
                await self.close(name)

    async def stop(self) -> None:
        """Let the child finish its frames and end."""
        for task in self._tasks:
            task.cancel()
        self._process.end()
        await asyncio.to_thread(self._process.join, 12.0)
        shutil.rmtree(self._folder, ignore_errors=True)
