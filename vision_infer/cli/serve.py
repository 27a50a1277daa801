"""``vision-infer serve``: run camera streams as a service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.cli.cluster import Cluster, InsecureCluster
from vision_infer.config.stream_url import url_help
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import UsageError
from vision_infer.core.packages import SERVICE, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from vision_infer.config.serve import ServeSettings
    from vision_infer.core.clock import Clock
    from vision_infer.service.processes.fleet import Fleet
    from vision_infer.service.streams.stream_files import StreamFiles

ServeSources = Annotated[
    list[str] | None,
    Argument(
        metavar="[CONFIG.yaml|URL]...",
        help=f"A configuration file, or URLs of cameras: {url_help()}. Without arguments, the service starts without streams; "
        "add them over the API.",
        show_default=False,
    ),
]
Host = Annotated[
    str | None, Option(help="Address to listen on. Any address other than loopback requires a token. Default: 127.0.0.1.")
]
Port = Annotated[int | None, Option(min=0, max=65535, help="Port to listen on. 0: any free port. Default: 8080.")]
ServeModel = Annotated[
    str | None, Option(help="Default model of streams. Default: nanodet-416.", autocompletion=options.model_names)
]
ServeEngine = Annotated[
    str | None,
    Option(
        metavar="auto|NAME",
        help="The engine, such as onnxruntime-cpu-fp32. Default: auto.",
        autocompletion=options.engine_names,
    ),
]
Devices = Annotated[
    str | None,
    Option(
        metavar="auto|all|cpu|cuda:N,…",
        help="The devices: auto, cpu, cuda:0, several such as cuda:0,cuda:1, or all GPUs. Default: auto.",
    ),
]
Processes = Annotated[
    str | None,
    Option(
        metavar="per-gpu|N", help="Processes that run streams, behind one page and API. per-gpu: one for each GPU. Default: 1."
    ),
]
Loop = Annotated[bool, Option("--loop", help="Restart the files among the URLs at their end.")]
Check = Annotated[bool, Option("--check", help="Validate the configuration and exit.")]


def serve_command(
    sources: ServeSources = None,
    host: Host = None,
    port: Port = None,
    model: ServeModel = None,
    model_dir: options.ModelDir = None,
    engine: ServeEngine = None,
    device: Devices = None,
    processes: Processes = None,
    cluster: Cluster = None,
    insecure_cluster: InsecureCluster = False,
    loop: Loop = False,
    check: Check = False,
) -> int:
    """Run streams as a service: REST and metrics over HTTP, results over WebSocket and server-sent events.

    The service applies changes of the configuration file while it runs. Ctrl-C or SIGTERM stops it after frames in flight are
    finished.
    """
    require("serve", *SERVICE, extra="serve")
    from vision_infer.config.serve_file import load_settings
    from vision_infer.config.validation_errors import SettingsError
    from vision_infer.service.operations.file_watch import FileWatch

    configurations = [source for source in sources or () if source.lower().endswith((".yaml", ".yml"))]
    if len(configurations) > 1:
        raise UsageError(f"{configurations[1]}: is a second configuration", "Write all streams into one file.")
    file = Path(configurations[0]) if configurations else None
    urls = [source for source in sources or () if source not in configurations]
    given = {
        "service.host": host,
        "service.port": port,
        "model": model,
        "model_dir": None if model_dir is None else str(model_dir),
        "engine": engine,
        "device": device,
        "processes": processes,
    }
    environ = dict(os.environ)

    def load() -> ServeSettings:
        settings = load_settings(file, urls, environ, given, loop)
        return settings if cluster is None else _for_cluster(settings)

    watch = None if file is None else FileWatch(file, SYSTEM_CLOCK)
    try:
        settings = load()
    except SettingsError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        return error.exit_status
    if check:
        return _check(settings)

    from vision_infer.stream.image_size import limit_opencv
    from vision_infer.stream.source import ReadOptions

    limit_opencv(ReadOptions().max_pixels)  # before cv2 is imported

    from vision_infer.cli.signals import StopSignals
    from vision_infer.service.serving import Start, serve

    os.umask(0o077)  # clips, results and state show people and places: only this account may read them
    with StopSignals() as signals:
        serve(
            Start(settings, watch, load, environ, _opening(cluster, insecure_cluster)),
            signals.stopping,
            lambda line: typer.echo(line, err=True),
        )
    return 0


def _opening(cluster: str | None, insecure: bool) -> Callable[[ServeSettings, StreamFiles, Clock], Fleet] | None:
    if cluster is None:
        return None
    require("serve --cluster", "ray")
    # Ray reads it when it is imported. Without a connection, calls of Ray would start a cluster on this machine.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    # Ray Client waits 30 s by default before it reports a lost connection; the service connects again by itself.
    os.environ.setdefault("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "5")
    from vision_infer.cluster.gateway import open_gateway

    return open_gateway(cluster, insecure)


def _for_cluster(settings: ServeSettings) -> ServeSettings:
    """Return settings for a cluster: viewers connect to the nodes, each of which has its own ports."""
    return settings.model_copy(update={"preview": settings.preview.model_copy(update={"port": 0})})


def _check(settings: ServeSettings) -> int:
    from vision_infer.config.warnings import warnings_of
    from vision_infer.model.catalog import model_card
    from vision_infer.pipeline.add_stream import check_embeddings, check_secondary

    for warning in warnings_of(settings):
        typer.echo(f"warning: {warning}", err=True)
    streams = settings.streams.values()
    models = {stream.model or settings.model for stream in streams} | {stream.secondary for stream in streams if stream.secondary}
    cards = {model: model_card(model, settings.model_dir) for model in sorted({settings.model, *models})}
    for name, stream in settings.streams.items():
        if stream.secondary is not None:
            check_secondary(f"streams.{name}.secondary", cards[stream.model or settings.model], cards[stream.secondary])
            check_embeddings(f"streams.{name}.reidentify", stream, cards[stream.secondary])
    count = len(settings.streams)
    typer.echo(f"ok: {count} stream{'' if count == 1 else 's'}{': ' if count else ''}{', '.join(settings.streams)}")
    return 0
