"""The worker processes of a service and their settings, as plain values that can be sent to another process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.config.validation_errors import SettingsError, problems_of
from vision_infer.core.errors import UsageError
from vision_infer.engine.device import available_cpus
from vision_infer.engine.gpu.accelerator import NoGpuError
from vision_infer.engine.gpu.gpus import list_gpus
from vision_infer.service.views import Origin

TOKEN_HEADER = "X-Worker-Token"
CLIENT_HEADER = "X-Worker-Client"
"""What the service knows about its client, as JSON: its address and principal."""
FOLDER = "workers"
"""The subfolder of the state folder that holds the state of each worker: spools and clips."""


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """The name of a worker, and the device on which it runs inference."""

    name: str
    device: str


@dataclass(frozen=True, slots=True)
class GivenStream:
    """The settings of a stream, and their place."""

    settings: StreamSettings
    origin: Origin


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """Everything that a worker needs to start. It contains secrets and is sent over a pipe."""

    worker: str
    socket: Path
    """The Unix socket on which the worker serves its API."""
    token: str
    """The token that each request to the worker must carry."""
    settings: ServeSettings
    """The settings of the worker, with the streams of the configuration file and of the command line that it runs."""
    streams: Mapping[str, GivenStream]
    """The other streams that it runs, and those of the command line that the API has changed."""
    state_dir: Path | None
    """The state folder of the whole service, in which the worker stores streams of the API; None: it stores none."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    """The first members of the records that sinks send, by stream; see :class:`SinkSet`."""

    @property
    def kind(self) -> str:
        """``node`` if the controller of a cluster stores the streams, otherwise ``worker``."""
        return "node" if self.state_dir is None else "worker"

    def to_json(self) -> str:
        """Return the values as one line of JSON, with all secrets."""
        return json.dumps(
            {
                "worker": self.worker,
                "socket": str(self.socket),
                "token": self.token,
                "settings": settings_to_plain(self.settings),
                "streams": streams_to_plain(self.streams),
                "state_dir": None if self.state_dir is None else str(self.state_dir),
                "stamps": dict(self.stamps),
            }
        )

    @staticmethod
    def from_json(line: bytes) -> WorkerStart:
        """Return the values of :meth:`to_json`."""
        data = json.loads(line)
        return WorkerStart(
            data["worker"],
            Path(data["socket"]),
            data["token"],
            settings_from_plain(data["settings"]),
            streams_from_plain(data["streams"]),
            None if data["state_dir"] is None else Path(data["state_dir"]),
            data["stamps"],
        )


def front_socket(folder: Path) -> Path:
    """Return the Unix socket by which workers use the preview port, in the folder of their sockets."""
    return folder / "preview-port"


def worker_places(settings: ServeSettings) -> list[WorkerPlace]:
    """Return the workers of a service; empty if the service runs in one process.

    With ``processes: per-gpu``, there is a worker for each GPU in ``device``, or for each GPU of the machine. A number of workers
    divide the devices in ``device``; with fewer devices, they take them in turn.

    Raises:
        UsageError: There is no GPU, it cannot be determined, or ``device`` excludes it.
    """
    devices = [device.strip() for device in settings.device.split(",")]
    if settings.processes == "per-gpu":
        gpus = [device for device in devices if device.startswith("cuda")]
        if devices == ["cpu"]:
            raise UsageError("processes: per-gpu: device is cpu", "Set a number of processes, or another device.")
        gpus = gpus or _all_gpus()
        places = [WorkerPlace(f"gpu-{gpu.partition(':')[2] or 0}", gpu) for gpu in gpus]
    else:
        count = settings.processes
        devices = _all_gpus() if count > 1 and devices == ["all"] else devices
        places = [
            WorkerPlace(f"worker-{number}", ",".join(devices[number::count]) or devices[number % len(devices)])
            for number in range(count)
        ]
    return places if len(places) > 1 else []


def _has_gpu() -> bool:
    try:
        return bool(list_gpus())
    except NoGpuError:
        return False


def _all_gpus() -> list[str]:
    try:
        return [f"cuda:{number}" for number in range(len(list_gpus()))]
    except NoGpuError as error:
        hint = f"{error.hint} Without a GPU, set a number of processes.".strip()
        raise UsageError(f"processes: per-gpu: {error.message}", hint) from None


def settings_of(
    settings: ServeSettings, place: WorkerPlace, workers: int, streams: Mapping[str, StreamSettings], state_dir: Path
) -> ServeSettings:
    """Return the settings of one worker.

    Workers share neither files nor limits: each has its own state folder, result files, clips and samples, and an equal part of
    the disk space for clips and samples, of the CPU, and of the viewers and encoders of the preview.

    Args:
        settings: The settings of the service.
        place: The worker.
        workers: The number of workers.
        streams: The streams of the configuration file and of the command line that the worker runs.
        state_dir: The state folder of the whole service.
    """
    results, clips, preview, samples = settings.results, settings.clips, settings.preview, settings.samples
    on_cpu = place.device == "cpu" or (place.device == "auto" and not _has_gpu())
    slots = max(1, available_cpus() // ((settings.threads or 1) * workers)) if on_cpu else None
    return settings.model_copy(
        update={
            "processes": 1,
            "device": place.device,
            "workers": settings.workers or slots,
            "access": None,
            "service": settings.service.model_copy(update={"tls": None, "token": None, "view_token": None}),
            "preview": preview.model_copy(
                update={
                    "max_viewers": -(-preview.max_viewers // workers),
                    "max_encoders": -(-preview.max_encoders // workers),
                }
            ),
            "results": results.model_copy(
                update={
                    "jsonl": _own_file(results.jsonl, place.name),
                    "parquet": _own_file(results.parquet, place.name),
                }
            ),
            "clips": clips.model_copy(
                update={"dir": None if clips.dir is None else clips.dir / place.name, "max_mb": max(1.0, clips.max_mb / workers)}
            ),
            "samples": samples.model_copy(
                update={
                    "dir": None if samples.dir is None else samples.dir / place.name,
                    "max_mb": max(1.0, samples.max_mb / workers),
                }
            ),
            "state_dir": state_dir / FOLDER / place.name,
            "streams": dict(streams),
        }
    ).with_url_streams(settings.url_streams & streams.keys())


def _own_file(path: str | None, worker: str) -> str | None:
    if path is None or "{stream}" in path:
        return path
    return str(Path(path).with_suffix(f".{worker}{Path(path).suffix}"))


def settings_to_plain(settings: ServeSettings) -> dict[str, Any]:
    """Return settings as plain values, with all secrets."""
    values: dict[str, Any] = json.loads(json.dumps(settings.model_dump(by_alias=True), default=_plain))
    return {"values": values, "url_streams": sorted(settings.url_streams)}


def settings_from_plain(data: Mapping[str, Any]) -> ServeSettings:
    """Return the settings of :func:`settings_to_plain`.

    Raises:
        SettingsError: They are not valid on this machine, for example because it does not have an extra.
    """
    names: Sequence[str] = data["url_streams"]
    try:
        return ServeSettings.model_validate(data["values"]).with_url_streams(frozenset(names))
    except ValidationError as error:
        raise SettingsError(problems_of(error, ServeSettings), "Install the same extras on all machines.") from None


def streams_to_plain(streams: Mapping[str, GivenStream]) -> dict[str, Any]:
    """Return streams as plain values, with the passwords in their URLs."""
    return {
        name: {"settings": stream.settings.model_dump(mode="json", by_alias=True), "origin": stream.origin}
        for name, stream in streams.items()
    }


def streams_from_plain(data: Mapping[str, Any]) -> dict[str, GivenStream]:
    """Return the streams of :func:`streams_to_plain`."""
    return {
        name: GivenStream(StreamSettings.model_validate(stream["settings"]), stream["origin"]) for name, stream in data.items()
    }


def _plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot send a {type(value).__name__}")
