"""The settings of ``vision-infer serve``, one validated file. ``vision-infer schema config`` prints its JSON Schema."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, PrivateAttr, SecretStr, model_validator

from vision_infer.config.access.settings import AccessSettings
from vision_infer.config.actions.sample import SampleSettings, SampleStoreSettings
from vision_infer.config.clips import ClipSettings, ClipStoreSettings
from vision_infer.config.cluster import ClusterSettings, NodeLabels
from vision_infer.config.preview import PreviewSettings
from vision_infer.config.region import Region
from vision_infer.config.run import DEFAULT_MODEL
from vision_infer.config.secrets.credentials import CredentialList
from vision_infer.config.service.cost import CostSettings
from vision_infer.config.service.inference_protocol import InferenceProtocolSettings
from vision_infer.config.service.reconnect import Reconnect
from vision_infer.config.service.result_files import ResultsSettings
from vision_infer.config.service.shadow import ShadowSettings
from vision_infer.config.service.telemetry import TelemetrySettings
from vision_infer.config.service.tls import TlsSettings
from vision_infer.config.settings_base import InferenceSettings, SettingsBase
from vision_infer.config.sinks import SinksSettings
from vision_infer.config.stream_policy import StreamPolicy, check_reidentify
from vision_infer.config.stream_url import PROTOCOLS, check_url, is_file, schemes_over_api, url_help
from vision_infer.config.zones import LineSettings, Name, ZoneSettings


def _url(url: str) -> str:
    check_url(url)
    return url


def _scheme(scheme: str) -> str:
    if scheme not in (*PROTOCOLS, "dev"):
        raise ValueError(f"unknown scheme; the valid ones are {', '.join(PROTOCOLS)} and dev")
    return scheme


def _network(network: str) -> str:
    try:
        ipaddress.ip_network(network)
    except ValueError:
        raise ValueError("is not a valid network; write CIDR with zero host bits, such as 10.0.0.0/8 or fd00::/8") from None
    return network


def _origin(origin: str) -> str:
    found = re.fullmatch(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:]+\])(:\d{1,5})?/?", origin.lower())
    if found is None:
        raise ValueError("must be http://HOST, https://HOST or https://HOST:PORT, without a path")
    scheme, host, port = found.groups()
    default = {"http": ":80", "https": ":443"}[scheme]
    return f"{scheme}://{host}{'' if port in (None, default) else port}"  # browsers leave out the default port


def _processes(value: object) -> object:
    number = int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,3}", value) else value
    if number != "per-gpu" and not (type(number) is int and 1 <= number <= MAX_PROCESSES):
        raise ValueError(f"must be per-gpu, or a whole number from 1 to {MAX_PROCESSES}")
    return number


MAX_PROCESSES = 64
Processes = Annotated[Literal["per-gpu"] | Annotated[int, Field(ge=1, le=MAX_PROCESSES)], BeforeValidator(_processes)]
Url = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_url)]
Host = Annotated[str, Field(pattern=r"^[^\s/@]+$")]
Origin = Annotated[str, AfterValidator(_origin)]
Token = Annotated[SecretStr, Field(min_length=8, max_length=1024)]
Scheme = Annotated[str, AfterValidator(_scheme)]
Network = Annotated[str, AfterValidator(_network)]


class StreamUrls(SettingsBase):
    """The URLs of a stream."""

    detect: Url = Field(
        validation_alias=AliasChoices("detect", "url"),
        repr=False,
        description=f"The URL of the video to infer: {url_help()}. HTTP serves HLS, MPEG-TS or MJPEG. The small "
        f"substream of a camera takes much less decoding. `url` is an alias.",
    )
    view: Url | None = Field(
        default=None, repr=False, description="The URL of the main stream, for snapshots. Defaults to `detect`."
    )
    degrade_detect: Url | None = Field(
        default=None, repr=False, description="The URL of smaller video of the camera, inferred under overload."
    )


class StreamDefaults(StreamPolicy):
    """Default values of streams. A field that a stream sets replaces the default completely."""

    enabled: bool = Field(default=True, description="Whether the stream is opened.")
    model: str | None = Field(
        default=None, min_length=1, description="A model name or deployment graph (.onnx). Defaults to the service's."
    )
    degrade_model: str | None = Field(
        default=None, min_length=1, description="A cheaper model for the same task, used under higher overload."
    )
    weight: float = Field(default=1.0, gt=0, le=1000, description="The share of the engine's time, relative to others.")
    region: Region | None = Field(default=None, description="Polygons: only detections inside `look` and outside `ignore` count.")
    zones: dict[Name, ZoneSettings] = Field(
        default_factory=dict, description="Polygons by name that report who enters, leaves and stays. Enables `track`."
    )
    lines: dict[Name, LineSettings] = Field(
        default_factory=dict, description="Lines by name that count crossing objects. Enables `track`."
    )
    clips: ClipSettings | None = Field(
        default=None, description="Video clips of events in zones and at lines, cut from the camera's stream. null: no clips."
    )
    sample: SampleSettings | None = Field(default=None, description="The frames that `samples.dir` gets. null: none.")
    node_labels: NodeLabels = Field(
        default_factory=dict,
        description="On a cluster, the labels that the stream's node must have, such as `site: berlin` or `gpu: true`.",
    )
    transport: Literal["tcp", "udp"] = Field(
        default="tcp", description="The preferred transport of RTSP; over RTP, the other one is used if the server refuses it."
    )
    audio: bool = Field(
        default=True,
        description="Whether the camera's sound is available in the preview and in clips. If not, an RTSP camera sends none.",
    )
    open_timeout_s: float = Field(default=10.0, gt=0, le=120, description="The maximum time for a server's answer, in seconds.")
    stall_timeout_s: float = Field(
        default=5.0, gt=0, le=600, description="The time without a frame after which the stream reconnects, in seconds."
    )
    max_age_ms: float = Field(
        default=500.0, gt=0, le=60_000, description="The maximum age of a frame, in milliseconds. Older frames are not inferred."
    )
    clock: Literal["auto", "arrival", "camera"] = Field(
        default="auto",
        description="The source of the capture time: the `arrival` of the packet, the `camera`'s own clock, or "
        "`auto`, which uses the camera's clock if it is plausible.",
    )
    skip_nonref: bool = Field(default=False, description="Do not decode frames that no other frame references.")
    ingest: Literal["auto", "rtp", "ffmpeg"] = Field(
        default="auto",
        description="What reads an RTSP camera. `rtp`: this program, which passes on an image with its last packet. `ffmpeg`: "
        "FFmpeg, which passes on H.264 and H.265 one frame interval later. `auto`: `rtp`, and `ffmpeg` for a camera that `rtp` "
        "cannot read.",
    )
    best_effort: bool = Field(default=False, description="Accept a stream over the API even without capacity for its `fps`.")
    loop: bool = Field(default=False, description="Restart a file at its end. Files only.")
    reconnect: Reconnect = Field(default=Reconnect(), description="The waiting times between attempts to reconnect.")


class StreamSettings(StreamDefaults, StreamUrls):
    """One camera, or a file that is played in real time. Fields that are not set come from ``defaults``."""

    @model_validator(mode="after")
    def _needed_settings(self) -> StreamSettings:
        if self.crop_region and (self.region is None or not self.region.look):
            raise ValueError("crop_region: needs a region with look polygons")
        if self.loop and not is_file(self.detect):
            raise ValueError("loop: applies to files only")
        check_reidentify(self)
        return self

    @model_validator(mode="after")
    def _smaller_video(self) -> StreamSettings:
        if self.degrade_detect is None:
            return self
        shapes = [*self.zones.values(), *self.lines.values(), self.region]
        in_pixels = any(shape is not None and shape.units == "pixels" for shape in shapes)
        if in_pixels or self.min_size or (self.tiles and self.tiles.size):
            raise ValueError(
                "degrade_detect: has fewer pixels: leave out min_size and tiles.size, and write zones, lines and region with "
                "units: relative"
            )
        if self.loop and not is_file(self.degrade_detect):
            raise ValueError("degrade_detect: must be a file if loop is set")
        return self

    @model_validator(mode="after")
    def _clips_of_known_events(self) -> StreamSettings:
        wanted = () if self.clips is None else self.clips.events or ()
        unknown = [name for name in wanted if name not in self.zones and name not in self.lines]
        if unknown:
            raise ValueError(f"clips.events: there is no zone or line named {unknown[0]}")
        return self

    @property
    def tracked(self) -> bool:
        """Whether objects are numbered."""
        return self.track or bool(self.zones) or bool(self.lines)


class ServiceSettings(SettingsBase):
    """The settings of the HTTP server."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="The address to listen on. Except on loopback, a token is required."
    )
    port: int = Field(default=8080, ge=0, le=65_535, description="The port to listen on. 0: any free port.")
    token: Token | None = Field(
        default=None, description="The token of the role admin. If required but not set, it is generated and printed once."
    )
    view_token: Token | None = Field(default=None, description="The token of the role view, which is read-only.")
    tls: TlsSettings | None = Field(default=None, description="The certificate and key. null: HTTP without TLS.")
    allow_hosts: tuple[Host, ...] = Field(default=(), description="Host names of the service, besides its address.")
    trusted_proxies: tuple[Network, ...] = Field(
        default=(),
        max_length=64,
        description="The networks (CIDR) of proxies whose `X-Forwarded-For` header names the client, such as 127.0.0.1/32.",
    )
    allow_origins: tuple[Origin, ...] = Field(
        default=(),
        max_length=64,
        description="The origins of other web sites, such as https://dashboard.example.org, whose pages may use the API, show "
        "images and embed the page.",
    )
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="The path under which a proxy serves the service, such as `/vision`. The proxy removes it from requests.",
    )
    allow_schemes: tuple[Scheme, ...] = Field(
        default=schemes_over_api(), description="The allowed schemes of URLs over the API. `file` and `dev` must be listed."
    )
    allow_networks: tuple[Network, ...] = Field(
        default=(),
        description="The networks (CIDR) for URLs over the API, redirects and playlists. Empty: any. "
        "URLs of this file are not limited.",
    )
    max_streams: int = Field(default=256, ge=1, le=10_000, description="The maximum number of streams of the file and the API.")
    max_clients: int = Field(default=64, ge=1, le=10_000, description="The maximum number of clients that read results.")
    max_upload_mb: float = Field(
        default=16.0, gt=0, le=1024, description="The maximum size of an image that is uploaded for inference, in megabytes."
    )
    requests_per_second: float = Field(
        default=100.0, gt=0, le=1_000_000, description="The rate limit per client address. Others get status 429."
    )
    inference_protocol: InferenceProtocolSettings | None = Field(
        default=None, description="The Open Inference Protocol v2, for clients of KServe and Triton. null: off."
    )
    log_format: Literal["human", "json"] = Field(
        default="human", description="The format of log lines: text for people, or one JSON object per line."
    )


class ServeSettings(ClusterSettings, InferenceSettings):
    """The complete settings of the service. ``defaults`` are already applied to each stream."""

    service: ServiceSettings = Field(default=ServiceSettings(), description="The HTTP server.")
    access: AccessSettings | None = Field(default=None, description="Users, roles, single sign-on. null: the tokens only.")
    model: str = Field(
        default=DEFAULT_MODEL, min_length=1, description="The default model of streams: a name or a deployment graph (.onnx)."
    )
    shadow: ShadowSettings | None = Field(default=None, description="A candidate for the model, to compare. null: none.")
    processes: Processes = Field(
        default=1, description="The number of processes that run streams, behind one page and API. per-gpu: one for each GPU."
    )
    decode_threads: int = Field(
        default=1, ge=1, le=64, description="Threads per decoder. Each additional one delays frames by one interval."
    )
    results: ResultsSettings = Field(default=ResultsSettings(), description="Result files, in addition to WebSocket and SSE.")
    sinks: SinksSettings = Field(default=SinksSettings(), description="Destinations of results: MQTT, message buses, web hooks.")
    telemetry: TelemetrySettings = Field(default=TelemetrySettings(), description="OpenTelemetry.")
    cost: CostSettings = Field(default=CostSettings(), description="The price of the machine.")
    preview: PreviewSettings = Field(default=PreviewSettings(), description="Live video in the browser.")
    clips: ClipStoreSettings = Field(default=ClipStoreSettings(), description="Storage of event clips.")
    samples: SampleStoreSettings = Field(default=SampleStoreSettings(), description="Storage of samples for labeling.")
    credentials: CredentialList = Field(
        default=(),
        max_length=1000,
        description="The user names and passwords of cameras by host, for RTSP and HTTP URLs without a user name. The first "
        "entry that matches the host is used.",
    )
    state_dir: Path | None = Field(
        default=None, description="The folder of streams of the API. Defaults to $VISION_INFER_HOME/serve."
    )
    streams: dict[Name, StreamSettings] = Field(
        default_factory=dict, max_length=10_000, description="The streams by name. Names contain letters, digits, `.`, `_`, `-`."
    )

    _url_streams: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def url_streams(self) -> frozenset[str]:
        """The names of the streams that are URLs on the command line, not in the file."""
        return self._url_streams

    def with_url_streams(self, names: frozenset[str]) -> ServeSettings:
        """Return the settings with these :attr:`url_streams`."""
        copied = self.model_copy()
        copied._url_streams = names
        return copied

    @model_validator(mode="after")
    def _names_and_number(self) -> ServeSettings:
        if len(self.streams) > self.service.max_streams:
            raise ValueError(f"streams: {len(self.streams)} exceed service.max_streams, {self.service.max_streams}")
        if len({name.casefold() for name in self.streams}) < len(self.streams):
            raise ValueError("streams: names must differ by more than upper and lower case")
        across = [name for name, stream in self.streams.items() if stream.reidentify is not None and stream.reidentify.across]
        if self.processes != 1 and across:
            raise ValueError(
                f"streams.{across[0]}.reidentify.across: cameras in several processes share no identities; leave it out, or "
                "leave out processes"
            )
        if self.samples.dir is None and any(stream.sample is not None for stream in self.streams.values()):
            raise ValueError("samples.dir: is needed by the setting sample of a stream")
        return self


class ServeFile(ServeSettings):
    """The configuration file of ``vision-infer serve``."""

    defaults: StreamDefaults = Field(default=StreamDefaults(), description="The default values of streams.")
