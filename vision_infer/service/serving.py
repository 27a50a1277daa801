"""The life of ``vision-infer serve``: the HTTP server starts first, then the engine, then the streams."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vision_infer import __version__
from vision_infer.config.serve import ServeSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import UsageError, VisionInferError
from vision_infer.core.packages import require
from vision_infer.engine.device import available_cpus
from vision_infer.model.catalog import resolve_model
from vision_infer.preview.transport.aiortc_private import check_libraries
from vision_infer.preview.transport.sockets import bind
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens, tokens_for
from vision_infer.service.http.listener import raise_descriptor_limit
from vision_infer.service.http.server import START_S, WebServer
from vision_infer.service.inference_protocol.models import LocalModels, Models
from vision_infer.service.operations.file_watch import CONFIRM_NS, FileWatch, removes_most, restart_fields
from vision_infer.service.operations.heap import Heap, share_heaps, system_function
from vision_infer.service.operations.logs import StateLog, configure
from vision_infer.service.operations.notify import ServiceNotifier
from vision_infer.service.processes.worker_settings import worker_places
from vision_infer.service.results.sinks import SinkSet
from vision_infer.service.service import Service
from vision_infer.service.shadow.shadow import FILE_NAME
from vision_infer.service.streams.configured import StreamKeeper
from vision_infer.service.streams.stream_files import StreamFiles, state_folder

if TYPE_CHECKING:
    from fastapi import FastAPI

    from vision_infer.service.processes.fleet import Fleet
    from vision_infer.sink.otlp.telemetry import Telemetry

LOOK_S = 0.25
DRAIN_S = 5.0

_log = logging.getLogger("vision_infer.service")


@dataclass(frozen=True, slots=True)
class Start:
    """The inputs of the service."""

    settings: ServeSettings
    watch: FileWatch | None
    """The watch of the configuration file, created before the file was read; None without a file."""
    load: Callable[[], ServeSettings]
    """Reads the settings again."""
    environ: Mapping[str, str]
    cluster: Callable[[ServeSettings, StreamFiles, Clock], Fleet] | None = None
    """Connects to the cluster that runs the streams; None: this machine runs them."""


def serve(start: Start, stopping: threading.Event, on_message: Callable[[str], None], clock: Clock = SYSTEM_CLOCK) -> None:
    """Run the service until it is stopped.

    Args:
        start: The inputs of the service.
        stopping: Set this event to stop; frames in the pipeline are finished and written for at most five seconds.
        on_message: Called with lines for the user: the URL of the service, and a newly generated token.

    Raises:
        VisionInferError: The service cannot start, or a fatal error occurred.
    """
    settings = start.settings
    share_heaps(available_cpus(), system_function("mallopt"))
    configure(settings.service.log_format)
    raise_descriptor_limit()
    if settings.preview.enabled:
        check_libraries()
    resolve_model(settings.model, settings.model_dir)  # report an unknown model before anything is started
    state_dir = state_folder(settings.state_dir, start.environ)
    access = None if settings.access is None else Access(settings.access, state_dir, clock)
    tokens = tokens_for(settings.service, state_dir, clock, required=access is not None)
    notifier = ServiceNotifier(start.environ)
    service, make, close, telemetry = _opened(start, state_dir, tokens.tokens, access, clock)
    with ExitStack() as stack:
        try:
            web = stack.enter_context(WebServer(settings.service, service.hub))
            sockets = stack.enter_context(bind(settings.preview, settings.service.host))
            grpc_address = _serve_grpc(service, web, tokens.tokens, access, clock, stack, telemetry)
        except VisionInferError:
            service.close()
            raise
        try:
            open_port = None if sockets is None else service.share_port(sockets)
            service.start()
            web.start(make())
            everywhere = " and on all other addresses of this machine" if web.everywhere else ""
            on_message(f"vision-infer serves on {web.url}{everywhere}")
            if grpc_address is not None:
                on_message(f"Open Inference Protocol over gRPC on {grpc_address}")
            if sockets is not None and open_port is not None:
                web.run(open_port(), START_S)
                on_message(f"live video on {sockets.shown}")
            if tokens.made is not None:
                on_message(f"token (shown only once; store it safely): {tokens.made}")
            _run(service, start, stopping, notifier, clock)
        finally:
            notifier.stopping("finishing the frames in the pipeline")
            close()
    if service.error is not None:
        raise service.error


def _serve_grpc(
    service: Service | Fleet,
    web: WebServer,
    tokens: Tokens,
    access: Access | None,
    clock: Clock,
    stack: ExitStack,
    telemetry: Telemetry | None,
) -> str | None:
    """Start the gRPC server of the Open Inference Protocol; return its address, or None if it is off."""
    settings = service.settings.service
    protocol = settings.inference_protocol
    if protocol is None or protocol.grpc_port is None:
        return None
    require("service.inference_protocol.grpc_port", "grpc")
    from vision_infer.service.grpc.server import GrpcServer  # an optional package

    models: Models
    if isinstance(service, Service):
        models = LocalModels(service)
    else:
        from vision_infer.service.processes.fleet_models import FleetModels  # imports an HTTP client

        models = FleetModels(service, web.run, clock)
    return stack.enter_context(GrpcServer(settings, protocol.grpc_port, models, tokens, clock, access, telemetry)).address


def _opened(
    start: Start, state_dir: Path, tokens: Tokens, access: Access | None, clock: Clock
) -> tuple[Service | Fleet, Callable[[], FastAPI], Callable[[], None], Telemetry | None]:
    """Return the service, a function that creates its application, one that closes it, and the traces of this process."""
    settings = start.settings
    places = [] if start.cluster is not None else worker_places(settings)
    if not places and start.cluster is None:
        telemetry = open_telemetry(settings, clock)
        service = open_service(settings, StreamFiles(state_dir, settings.service), state_dir, clock, telemetry=telemetry)
        return service, lambda: make_app(service, tokens, clock, access, telemetry), lambda: drain(service), telemetry
    from vision_infer.service.processes.front import make_front  # imports an HTTP client, which one process does not need
    from vision_infer.service.processes.workers import Workers

    if settings.shadow is not None:
        raise UsageError("shadow: needs a service in one process", "Remove it, or set processes: 1, without a cluster.")
    workers: Fleet
    if start.cluster is not None:
        workers = start.cluster(settings, StreamFiles(state_dir, settings.service), clock)
    else:
        workers = Workers(settings, places, state_dir, clock)
    # Each worker limits the time itself.
    return workers, lambda: make_front(workers, tokens, clock, access), workers.close, None


def open_telemetry(settings: ServeSettings, clock: Clock, worker: str = "", kind: str = "worker") -> Telemetry | None:
    """Start to send traces and metrics; return None if the settings name no receiver.

    Args:
        settings: The settings of the service.
        clock: The source of time.
        worker: The name of the worker process; empty if the service has one process.
        kind: The kind of that name: ``worker``, or ``node`` in a cluster.
    """
    if settings.telemetry.endpoint is None:
        return None
    from vision_infer.sink.otlp.telemetry import Telemetry  # its package is optional

    own = {"service.version": __version__} | ({f"vision_infer.{kind}": worker} if worker else {})
    instance = f"{socket.gethostname()}:{settings.service.port}" + f"/{worker}" * bool(worker)
    telemetry = Telemetry(settings.telemetry, {"service.instance.id": instance, **own}, clock)
    telemetry.start()
    return telemetry


def open_service(
    settings: ServeSettings,
    keep: StreamKeeper,
    state_dir: Path,
    clock: Clock,
    worker: str = "",
    telemetry: Telemetry | None = None,
) -> Service:
    """Create a service that runs streams in this process.

    Args:
        settings: The settings of the service.
        keep: The stored streams of the API.
        state_dir: The folder of the spools.
        clock: The source of time.
        worker: The name of the worker process; empty if the service has one process.
        telemetry: Traces and metrics; closed with the service.
    """
    sinks = SinkSet(settings.results, settings.sinks, state_dir, clock, worker, settings.samples, telemetry)
    return Service(
        settings, keep, (), StateLog(clock).log, clock, sink_set=sinks, shadow_file=state_dir / FILE_NAME, alone=not worker
    )


def _run(service: Service | Fleet, start: Start, stopping: threading.Event, notifier: ServiceNotifier, clock: Clock) -> None:
    watch = start.watch
    heap = Heap(system_function("malloc_trim"), clock)
    ready_sent, alive_ns = False, clock.monotonic_ns()
    while not stopping.wait(LOOK_S) and service.error is None:
        if not ready_sent and service.ready()[0]:
            ready_sent = True
            notifier.ready(f"{len(service.streams())} streams")
        interval_s = notifier.watchdog_interval_s
        if interval_s is not None and clock.monotonic_ns() - alive_ns >= interval_s * 1e9 / 2:
            alive_ns = clock.monotonic_ns()
            notifier.watchdog()
        heap.trim_if_due()
        if watch is not None and watch.changed():
            _reload(service, start, watch)


def _reload(service: Service | Fleet, start: Start, watch: FileWatch) -> None:
    try:
        settings = start.load()
    except VisionInferError as error:
        _log.error("the configuration file has changed but is invalid; the service continues with the old settings: %s", error)
        return
    known = [stream.name for stream in service.streams() if stream.origin == "file"]
    incomplete = removes_most(known, settings.streams) or removes_most(_sink_names(service.settings), _sink_names(settings))
    if incomplete and not watch.confirmed:
        message = "the configuration file removes most streams or sinks; this is applied if the file is still the same in %g s"
        _log.warning(message, CONFIRM_NS / 1e9)
        watch.report_again()
        return
    if changed := restart_fields(service.settings, settings):
        _log.warning("the configuration file has changed: %s: restart the service to apply this", ", ".join(changed))
    service.reload(settings)


def _sink_names(settings: ServeSettings) -> list[str]:
    return [f"{kind}.{name}" for kind, by_name in settings.sinks for name in by_name]


def drain(service: Service) -> None:
    """Close a service; return after a limited time even if an engine hangs."""
    # A hanging engine must not prevent the process from ending.
    closing = threading.Thread(target=service.close, name="service-close", daemon=True)
    closing.start()
    closing.join(DRAIN_S)
    if closing.is_alive():
        hanging = ", ".join(f"{lane.engine} ({lane.name})" for lane in service.lanes() if lane.flying)
        where = f": no response from {hanging}" if hanging else ""
        _log.error("the frames in the pipeline were not finished within %g s and are lost%s", DRAIN_S, where)
