"""The settings of ``vision-infer serve``: one file, checked and frozen. ``vision-infer schema config`` prints its JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, model_validator

from vision_infer.config.region import Region
from vision_infer.config.run import DEFAULT_MODEL
from vision_infer.config.zones import LineSettings, ZoneSettings

STREAM_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "srt", "test", "file")
"""kinds of URLs of a stream; besides ``/dev/videoN`` and the path of a file"""

Name = Annotated[str, Field(pattern=STREAM_NAME)]
Score = Annotated[float, Field(ge=0, le=1)]
Url = Annotated[str, Field(min_length=1, max_length=4096)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class Reconnect(_Settings):
    """How a stream comes back."""

    min_s: float = Field(default=0.5, gt=0, le=3600, description="longest first wait; each wait is drawn between 0 and its limit")
    max_s: float = Field(default=30.0, gt=0, le=3600, description="the limit doubles with each failure up to this")
    refused_s: float = Field(default=60.0, gt=0, le=86_400, description="wait after a wrong password or a 404, doubling up to five")
    attempts: int | None = Field(default=None, ge=1, description="failures in a row after which the stream fails; null: never")


class StreamSettings(_Settings):
    """One camera, or a file that is played in real time. What is null is taken from ``defaults``, then from the model's card."""

    detect: Url = Field(
        validation_alias=AliasChoices("detect", "url"),
        description="URL that is inferred: rtsp(s), http(s) (HLS, MPEG-TS, MJPEG), rtmp, srt, /dev/video0, a file, test://; "
        "a camera's small substream saves most of the decoding",
    )
    view: Url | None = Field(default=None, description="URL of the main stream, for snapshots; opened only when somebody looks")
    enabled: bool = True
    model: str | None = Field(default=None, min_length=1, description="name of a model, or a deployment graph (.onnx)")
    fps: float | None = Field(default=None, gt=0, le=1000, description="infer at most so many frames a second")
    weight: float = Field(default=1.0, gt=0, le=1000, description="share of the engine's time beside the other streams")
    confidence: Score | None = None
    iou: Annotated[float, Field(gt=0, le=1)] | None = None
    classes: tuple[str, ...] | None = Field(default=None, description="only these labels")
    per_class: dict[str, Score] = Field(default_factory=dict, description="least score of single classes")
    min_size: float = Field(default=0.0, ge=0, description="least width and height of a box, source pixels")
    region: Region | None = Field(default=None, description="where detections count: look and ignore polygons")
    track: bool = Field(default=False, description="number the objects; zones and lines do so anyway")
    zones: dict[Name, ZoneSettings] = Field(default_factory=dict)
    lines: dict[Name, LineSettings] = Field(default_factory=dict)
    hook: str | None = Field(default=None, description="MODULE:FUNCTION called with each result")
    transport: Literal["tcp", "udp"] = Field(default="tcp", description="of RTSP")
    open_timeout_s: float = Field(default=10.0, gt=0, le=120, description="how long a server may take to answer")
    stall_timeout_s: float = Field(default=5.0, gt=0, le=600, description="without a frame for so long, we connect anew")
    max_age_ms: float = Field(default=500.0, gt=0, le=60_000, description="an older frame is not inferred")
    clock: Literal["auto", "arrival", "camera"] = Field(default="auto", description="where the time of capture comes from")
    keyframes_only: bool = Field(default=False, description="decode key frames only: for very many cameras")
    skip_nonref: bool = Field(default=False, description="do not decode frames that no other frame needs")
    loop: bool = Field(default=False, description="a file begins again at its end")
    reconnect: Reconnect = Reconnect()

    @property
    def tracked(self) -> bool:
        """Whether objects are numbered."""
        return self.track or bool(self.zones) or bool(self.lines)


class TlsSettings(_Settings):
    """Certificate and key, PEM."""

    certificate: Path
    key: Path


class ServiceSettings(_Settings):
    """The web side."""

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on; a token is needed where it is not loopback")
    port: int = Field(default=8080, ge=0, le=65_535, description="0: any free port")
    token: SecretStr | None = Field(default=None, description="of the role admin; null: made at the first start, where one is needed")
    view_token: SecretStr | None = Field(default=None, description="of the role view: may look, not change")
    tls: TlsSettings | None = None
    allow_hosts: tuple[str, ...] = Field(default=(), description="names under which the service is reached, besides its address")
    allow_schemes: tuple[str, ...] = Field(
        default=("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "srt", "test"), description="of URLs that come over the API"
    )
    allow_networks: tuple[str, ...] = Field(default=(), description="networks (CIDR) that URLs over the API may lead to; empty: any")
    max_streams: int = Field(default=256, ge=1, le=10_000)
    max_clients: int = Field(default=64, ge=1, le=10_000, description="readers of results at the same time")
    max_upload_mb: float = Field(default=16.0, gt=0, le=1024)
    requests_per_second: float = Field(default=100.0, gt=0, description="of one client address; more are answered with 429")
    log_format: Literal["human", "json"] = "human"


class ResultsSettings(_Settings):
    """Files of results, beside WebSocket and SSE."""

    jsonl: str | None = Field(default=None, description="file; {stream} in its name gives one for each stream; null: none")
    rotate_mb: float = Field(default=100.0, gt=0)
    keep: int = Field(default=10, ge=0, description="rotated files that are kept, of each name")


class ServeSettings(_Settings):
    """The whole file."""

    service: ServiceSettings = ServiceSettings()
    model: str = Field(default=DEFAULT_MODEL, min_length=1, description="of streams that name none")
    model_dir: Path | None = Field(default=None, description="folder of the user's models")
    engine: str = "auto"
    device: str = "auto"
    workers: int | None = Field(default=None, ge=1, le=256, description="batches in flight")
    threads: int | None = Field(default=None, ge=1, le=256, description="CPU threads of each batch")
    batch: int | None = Field(default=None, ge=1, le=256, description="largest batch")
    decode_threads: int = Field(default=1, ge=1, le=64, description="of each decoder; more cost age, one frame each")
    results: ResultsSettings = ResultsSettings()
    state_dir: Path | None = Field(
        default=None, description="where streams made over the API and the token's hash are kept; null: $VISION_INFER_HOME/serve"
    )
    streams: dict[Name, StreamSettings] = Field(default_factory=dict, max_length=10_000)

    @model_validator(mode="after")
    def _few_enough(self) -> ServeSettings:
        if len(self.streams) > self.service.max_streams:
            raise ValueError(f"streams: {len(self.streams)} are more than service.max_streams, {self.service.max_streams}")
        return self
