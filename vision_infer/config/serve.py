"""The settings of ``vision-infer serve``: one file, checked and frozen. ``vision-infer schema config`` prints its JSON Schema."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, SecretStr, model_validator

from vision_infer.config.clips import ClipSettings, ClipStoreSettings
from vision_infer.config.region import Region
from vision_infer.config.run import DEFAULT_MODEL
from vision_infer.config.sinks import SinksSettings
from vision_infer.config.stream_url import SCHEMES as SCHEMES
from vision_infer.config.stream_url import check_url, is_file
from vision_infer.config.zones import LineSettings, ZoneSettings

STREAM_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _url(url: str) -> str:
    check_url(url)
    return url


def _scheme(scheme: str) -> str:
    if scheme not in (*SCHEMES, "dev"):
        raise ValueError(f"there are {', '.join(SCHEMES)} and dev")
    return scheme


def _ice_url(url: str) -> str:
    if not re.fullmatch(r"(stun:[^?\s:/@]+(:\d{1,5})?|turns?:[^?\s:/@]+(:\d{1,5})?(\?transport=(udp|tcp))?)", url):
        raise ValueError("is stun:HOST:PORT, turn:HOST:PORT or turns:HOST:PORT?transport=tcp")
    return url


def _network(network: str) -> str:
    try:
        ipaddress.ip_network(network)
    except ValueError:
        raise ValueError("is no network, such as 10.0.0.0/8 or fd00::/8, with the part of the host zero") from None
    return network


Name = Annotated[str, Field(pattern=STREAM_NAME)]
Score = Annotated[float, Field(ge=0, le=1)]
Url = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_url)]
Label = Annotated[str, Field(min_length=1)]
Host = Annotated[str, Field(pattern=r"^[^\s/@]+$")]
Token = Annotated[SecretStr, Field(min_length=8, max_length=1024)]
Scheme = Annotated[str, AfterValidator(_scheme)]
IceUrl = Annotated[str, AfterValidator(_ice_url)]
Network = Annotated[str, AfterValidator(_network)]


class _Settings(BaseModel):
    # Errors of the library would show what was put in, a password perhaps.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


class Reconnect(_Settings):
    """How a stream comes back."""

    min_s: float = Field(
        default=0.5, gt=0, le=3600, description="longest first wait, seconds; each wait is drawn between 0 and its limit"
    )
    max_s: float = Field(default=30.0, gt=0, le=3600, description="the limit doubles with each failure up to this, seconds")
    refused_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="wait after a wrong password or a 404, seconds; doubles, up to five times as long",
    )
    attempts: int | None = Field(
        default=None, ge=1, description="failures in a row after which the stream is given up; null: it is never given up"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Reconnect:
        if self.max_s < self.min_s:
            raise ValueError("max_s: must not be less than min_s")
        return self


class StreamUrls(_Settings):
    """Where the pictures of a stream come from."""

    detect: Url = Field(
        validation_alias=AliasChoices("detect", "url"),
        repr=False,
        description="URL that is inferred: rtsp(s)://, http(s):// (HLS, MPEG-TS, MJPEG), rtmp(s)://, srt://, /dev/video0, "
        "a file, test://; a camera's small substream saves most of the decoding. `url` is the same",
    )
    view: Url | None = Field(
        default=None,
        repr=False,
        description="URL of the main stream, for snapshots; opened only when somebody looks; null: `detect`",
    )
    degrade_detect: Url | None = Field(
        default=None,
        repr=False,
        description="URL of a smaller picture of the same camera, which is inferred while the machine is too small for `detect`; "
        "null: there is none",
    )


class StreamDefaults(_Settings):
    """What streams take where they say nothing themselves. A field that a stream names replaces this one whole."""

    enabled: bool = Field(default=True, description="false: the stream is known, but not opened")
    model: str | None = Field(
        default=None, min_length=1, description="name of a model, or a deployment graph (.onnx); null: the service's `model`"
    )
    degrade_model: str | None = Field(
        default=None,
        min_length=1,
        description="a cheaper model for the same task, which infers while the machine is too small and `degrade_detect` is not "
        "enough; null: there is none",
    )
    secondary: str | None = Field(
        default=None,
        min_length=1,
        description="a second model that looks at each detection, for classification or embeddings; "
        "`model` must be for detection then",
    )
    fps: float | None = Field(
        default=None, gt=0, le=1000, description="infer at most so many frames a second; null: all that come"
    )
    gate: Literal["motion"] | None = Field(
        default=None,
        description="`motion`: frames in which nothing moves are not inferred, and repeat what was found last; null: all are",
    )
    gate_heartbeat_s: float = Field(
        default=5.0, gt=0, le=3600, description="with `gate`, a frame is inferred at least so often, seconds"
    )
    weight: float = Field(default=1.0, gt=0, le=1000, description="share of the engine's time beside the other streams")
    confidence: Score | None = Field(default=None, description="least score, 0–1; null: that of the model's card")
    iou: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="boxes of a class that overlap more are one, 0–1; null: that of the model's card"
    )
    classes: tuple[Label, ...] | None = Field(default=None, description="only these labels; null: all")
    per_class: dict[Label, Score] = Field(
        default_factory=dict, description="least score of single labels; goes before `confidence`, higher or lower"
    )
    min_size: float = Field(default=0.0, ge=0, le=100_000, description="least width and height of a box, pixels of the source")
    region: Region | None = Field(default=None, description="where detections count: `look` and `ignore` polygons")
    track: bool = Field(default=False, description="number the objects; zones and lines do so anyway")
    zones: dict[Name, ZoneSettings] = Field(
        default_factory=dict, description="by name: polygons that tell who enters, leaves and stays"
    )
    lines: dict[Name, LineSettings] = Field(default_factory=dict, description="by name: lines that count who crosses them")
    clips: ClipSettings | None = Field(
        default=None, description="clips of its events in zones and at lines, cut from what the camera sends; null: none"
    )
    hook: str | None = Field(
        default=None, min_length=1, description="MODULE:FUNCTION called with each result; it may change or drop it"
    )
    transport: Literal["tcp", "udp"] = Field(default="tcp", description="of RTSP")
    open_timeout_s: float = Field(default=10.0, gt=0, le=120, description="how long a server may take to answer, seconds")
    stall_timeout_s: float = Field(default=5.0, gt=0, le=600, description="without a frame for so long, we connect anew; seconds")
    max_age_ms: float = Field(default=500.0, gt=0, le=60_000, description="an older frame is not inferred, milliseconds")
    clock: Literal["auto", "arrival", "camera"] = Field(
        default="auto",
        description="where the time of capture comes from: `arrival` of the packet, the `camera`'s own clock, or `auto`: "
        "the latter where it is plausible",
    )
    keyframes_only: bool = Field(default=False, description="decode key frames only: for very many cameras")
    decode: Literal["auto", "cpu", "nvdec"] = Field(
        default="auto",
        description="`nvdec`: on an NVIDIA GPU, and on the CPU where that cannot be, which is told; `auto`: on the GPU where its "
        "pictures are inferred, else on the CPU",
    )
    skip_nonref: bool = Field(default=False, description="do not decode frames that no other frame needs")
    assemble: bool = Field(
        default=False,
        description="RTSP: hand pictures out as soon as they are whole, a frame interval younger; the first broken picture ends "
        "it for that connection",
    )
    best_effort: bool = Field(
        default=False,
        description="a stream over the API whose `fps` the machine cannot carry is made all the same, and gets what is left",
    )
    loop: bool = Field(default=False, description="a file begins again at its end; files only")
    reconnect: Reconnect = Field(default=Reconnect(), description="how long is waited before each attempt to come back")


class StreamSettings(StreamDefaults, StreamUrls):
    """One camera, or a file that is played in real time. What is left out is taken from ``defaults``."""

    @model_validator(mode="after")
    def _loop_of_a_file(self) -> StreamSettings:
        if self.loop and not is_file(self.detect):
            raise ValueError("loop: is for files only")
        return self

    @model_validator(mode="after")
    def _smaller_picture(self) -> StreamSettings:
        if self.degrade_detect is None:
            return self
        places: list[ZoneSettings | LineSettings | Region] = [*self.zones.values(), *self.lines.values()]
        if self.region is not None:
            places.append(self.region)
        if self.min_size or any(place.units == "pixels" for place in places):
            raise ValueError(
                "degrade_detect: has fewer pixels: leave out min_size, and give zones, lines and region with units: relative"
            )
        if self.loop and not is_file(self.degrade_detect):
            raise ValueError("degrade_detect: must be a file too with loop")
        return self

    @model_validator(mode="after")
    def _clips_of_what_is_there(self) -> StreamSettings:
        wanted = () if self.clips is None else self.clips.events or ()
        unknown = [name for name in wanted if name not in self.zones and name not in self.lines]
        if unknown:
            raise ValueError(f"clips.events: there is no zone and no line {unknown[0]}")
        return self

    @property
    def tracked(self) -> bool:
        """Whether objects are numbered."""
        return self.track or bool(self.zones) or bool(self.lines)


class TlsSettings(_Settings):
    """Certificate and key, PEM."""

    certificate: Path = Field(description="file of the certificate, with those between it and the root, PEM")
    key: Path = Field(description="file of its key, PEM")


class ServiceSettings(_Settings):
    """The web side."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="address to listen on; a token is needed where it is not loopback"
    )
    port: int = Field(default=8080, ge=0, le=65_535, description="0: any free port")
    token: Token | None = Field(
        default=None, description="of the role admin; null: one is made at the first start, where one is needed, and printed once"
    )
    view_token: Token | None = Field(
        default=None, description="of the role view, which may look, not change; null: there is none"
    )
    tls: TlsSettings | None = Field(default=None, description="certificate and key; null: HTTP without TLS")
    allow_hosts: tuple[Host, ...] = Field(
        default=(), description="names under which the service is reached, besides its address and localhost"
    )
    allow_schemes: tuple[Scheme, ...] = Field(
        default=("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "srt", "test"),
        description="of URLs that come over the API; `file` and `dev` (/dev/videoN) only where they are named here",
    )
    allow_networks: tuple[Network, ...] = Field(
        default=(), description="networks (CIDR) that URLs over the API may lead to; empty: any"
    )
    max_streams: int = Field(default=256, ge=1, le=10_000, description="streams of the file and of the API together")
    max_clients: int = Field(default=64, ge=1, le=10_000, description="readers of results at the same time")
    max_upload_mb: float = Field(
        default=16.0, gt=0, le=1024, description="largest picture that is sent to be inferred, megabytes"
    )
    requests_per_second: float = Field(
        default=100.0, gt=0, le=1_000_000, description="of one client address; more are answered with 429"
    )
    log_format: Literal["human", "json"] = Field(default="human", description="lines for people, or a JSON object in each")


class ResultsSettings(_Settings):
    """Files of results, beside WebSocket and SSE."""

    jsonl: str | None = Field(
        default=None, min_length=1, description="file; `{stream}` in its name gives one for each stream; null: none"
    )
    parquet: Annotated[str, Field(min_length=1, pattern=r"^[^{}]+\.parquet$")] | None = Field(
        default=None,
        description="file, NAME.parquet, for all streams: detections go into NAME-TIME.parquet, what happens into "
        "NAME.events-TIME.parquet; null: none",
    )
    parquet_minutes: float = Field(
        default=60.0, gt=0, le=100_000, description="a file of Parquet is finished, and a new one begun, after so many minutes"
    )
    rotate_mb: float = Field(default=100.0, gt=0, le=1_000_000, description="a new file is begun after so many megabytes")
    daily: bool = Field(default=False, description="a new file is begun with each day (UTC) too")
    keep: int = Field(default=10, ge=0, le=100_000, description="rotated files that are kept, of each name")


class IceServer(_Settings):
    """A server that helps viewers and the service to find a way to each other."""

    url: IceUrl = Field(description="stun:HOST:PORT, turn:HOST:PORT, or turns:HOST:PORT?transport=tcp")
    username: str | None = Field(default=None, min_length=1, description="of a TURN server")
    credential: SecretStr | None = Field(default=None, description="password of a TURN server")


class CostSettings(_Settings):
    """What the machine costs, for the account of each stream at ``/api/v1/cost``."""

    machine_per_hour: float | None = Field(
        default=None, ge=0, le=1_000_000, description="price of the machine, with its power and whatever else; null: not known"
    )
    currency: str = Field(default="EUR", min_length=1, max_length=8, description="of that price")


class PreviewSettings(_Settings):
    """Live video in the browser (WebRTC), untouched where a browser plays what the camera sends."""

    enabled: bool = Field(default=True, description="false: there is none")
    max_viewers: int = Field(default=64, ge=1, le=10_000, description="of all streams at the same time")
    max_viewers_per_stream: int = Field(default=32, ge=1, le=10_000, description="of one stream at the same time")
    max_encoders: int = Field(
        default=4, ge=0, le=256, description="videos that are encoded for viewers at the same time; 0: nothing is ever encoded"
    )
    max_height: int = Field(
        default=2160, ge=16, le=8192, description="H.264 with more lines than this is not passed on, but encoded smaller; pixels"
    )
    encode_height: int = Field(default=540, ge=16, le=2160, description="most lines of what is encoded, pixels")
    encode_fps: float = Field(default=25.0, gt=0, le=120, description="most frames a second of what is encoded")
    encode_kbit_s: int = Field(default=1500, ge=50, le=100_000, description="of what is encoded, kilobits a second")
    ice_servers: tuple[IceServer, ...] = Field(
        default=(),
        max_length=8,
        description="STUN and TURN servers, the first of each kind; empty: none",
    )


class ServeSettings(_Settings):
    """The whole file, each stream with what it has from ``defaults``."""

    service: ServiceSettings = Field(default=ServiceSettings(), description="the web side")
    model: str = Field(
        default=DEFAULT_MODEL,
        min_length=1,
        description="of streams that name none: name of a model, or a deployment graph (.onnx)",
    )
    model_dir: Path | None = Field(default=None, description="folder of your models; null: $VISION_INFER_HOME/models")
    engine: str = Field(
        default="auto", min_length=1, description="name of an engine, such as onnxruntime-cpu-fp32; auto: the best"
    )
    engine_dir: Path | None = Field(default=None, description="where engines are kept; null: $VISION_INFER_HOME/engines")
    device: str = Field(
        default="auto",
        min_length=1,
        description="cpu, cuda:0 …; of several GPUs, cuda:0,cuda:1, each engine takes the next; auto: the best",
    )
    workers: int | None = Field(default=None, ge=1, le=256, description="batches in flight; null: as the machine has cores")
    threads: int | None = Field(
        default=None, ge=1, le=256, description="CPU threads of each batch; null: as the machine has cores"
    )
    batch: int | None = Field(default=None, ge=1, le=256, description="largest batch; null: as the engine likes")
    decode_threads: int = Field(
        default=1, ge=1, le=64, description="of each decoder; each more costs a frame of age, so 1 is best for live streams"
    )
    results: ResultsSettings = Field(default=ResultsSettings(), description="files of results, beside WebSocket and SSE")
    sinks: SinksSettings = Field(
        default=SinksSettings(), description="where results, events and states are sent: MQTT, web hooks"
    )
    cost: CostSettings = Field(default=CostSettings(), description="what the machine costs")
    preview: PreviewSettings = Field(default=PreviewSettings(), description="live video in the browser")
    clips: ClipStoreSettings = Field(default=ClipStoreSettings(), description="where clips of events are kept, and how much")
    state_dir: Path | None = Field(
        default=None, description="where streams made over the API and the token's hash are kept; null: $VISION_INFER_HOME/serve"
    )
    streams: dict[Name, StreamSettings] = Field(
        default_factory=dict, max_length=10_000, description="by name: letters, digits, `.`, `_`, `-`"
    )

    @model_validator(mode="after")
    def _few_and_different(self) -> ServeSettings:
        if len(self.streams) > self.service.max_streams:
            raise ValueError(f"streams: {len(self.streams)} are more than service.max_streams, {self.service.max_streams}")
        if len({name.casefold() for name in self.streams}) < len(self.streams):
            raise ValueError("streams: names differ by more than capital letters")
        return self


class ServeFile(ServeSettings):
    """The file of ``vision-infer serve``."""

    defaults: StreamDefaults = Field(default=StreamDefaults(), description="what streams take where they say nothing themselves")
