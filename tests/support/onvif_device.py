"""A simulated ONVIF camera: a web server on the loopback interface that answers SOAP requests, correctly or not."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

USER, PASSWORD = "operator", "pa:ss/wörd"
JPEG = b"\xff\xd8\xff\xe0" + bytes(60) + b"\xff\xd9"
NOT_AUTHORIZED = (
    "<v:Fault><v:Code><v:Value>v:Sender</v:Value><v:Subcode><v:Value>ter:NotAuthorized</v:Value></v:Subcode></v:Code>"
    '<v:Reason><v:Text xml:lang="en">The action requested requires authorization and the sender is not authorized</v:Text>'
    "</v:Reason></v:Fault>"
)
UNSUPPORTED = (
    "<v:Fault><v:Code><v:Value>v:Receiver</v:Value><v:Subcode><v:Value>ter:ActionNotSupported</v:Value></v:Subcode></v:Code>"
    '<v:Reason><v:Text xml:lang="en">Optional Action Not Implemented</v:Text></v:Reason></v:Fault>'
)
_NAMESPACES = (
    'xmlns:v="http://www.w3.org/2003/05/soap-envelope" xmlns:ter="http://www.onvif.org/ver10/error" '
    'xmlns:d="http://www.onvif.org/ver10/device/wsdl" xmlns:m="http://www.onvif.org/ver10/media/wsdl" '
    'xmlns:m2="http://www.onvif.org/ver20/media/wsdl" xmlns:t="http://www.onvif.org/ver10/schema"'
)
_CODECS_OF_MEDIA2 = {"JPEG": "JPEG", "MPEG4": "MPV4-ES"}
_OPEN = frozenset({"GetSystemDateAndTime"})
"""What a client may ask before it has authenticated."""


@dataclass
class FakeProfile:
    """A profile that the camera offers."""

    token: str
    codec: str
    width: int
    height: int
    url: str
    rate: int = 25
    source: str = "sensor"


@dataclass
class OnvifDevice:
    """A camera and its faults. The fields may be changed while it serves."""

    profiles: list[FakeProfile] = field(default_factory=list)
    media: tuple[Literal["media", "media2"], ...] = ("media",)
    """The media services that it offers."""
    authentication: Literal["token", "digest", "basic", "none"] = "token"
    """What it needs: a WS-Security UsernameToken, or HTTP authentication."""
    algorithm: str = "MD5"
    clock_offset_s: float = 0.0
    tolerance_s: float = 30.0
    """How much the time of a UsernameToken may differ from the camera's clock."""
    fault_status: int = 400
    """The status of a response that refuses a UsernameToken."""
    host: str = ""
    """The host in its addresses; empty: the right one."""
    answers: dict[str, str | bytes] = field(default_factory=dict)
    """Contents of SOAP bodies, or whole responses, that replace the answers of operations."""
    statuses: dict[str, int] = field(default_factory=dict)
    """The statuses of these answers."""
    tls: ssl.SSLContext | None = None
    """What it needs for HTTPS; None for HTTP."""
    moved_to: str = ""
    """Where it redirects all requests to."""
    drip_s: float = 0.0
    """The time between the bytes of its responses."""
    port: int = 0
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """The operation, the headers, and the body of each request."""
    attempts: int = 0
    """The number of requests with a user name."""

    @property
    def service(self) -> str:
        """The address of its device service."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/onvif/device_service"

    def operations(self) -> list[str]:
        """Return the operations that were requested, in order."""
        return [operation for operation, *_ in self.requests]

    def answer(self, operation: str, body: str) -> str:
        """Return the content of the SOAP body of a response."""
        host = self.host or f"127.0.0.1:{self.port}"
        web = f"http://{host}/onvif/"
        if operation == "GetSystemDateAndTime":
            now = datetime.fromtimestamp(time.time() + self.clock_offset_s, UTC)
            return (
                "<d:GetSystemDateAndTimeResponse><d:SystemDateAndTime><t:DateTimeType>Manual</t:DateTimeType>"
                f"<t:UTCDateTime><t:Time><t:Hour>{now.hour}</t:Hour><t:Minute>{now.minute}</t:Minute><t:Second>{now.second}"
                f"</t:Second></t:Time><t:Date><t:Year>{now.year}</t:Year><t:Month>{now.month}</t:Month><t:Day>{now.day}</t:Day>"
                "</t:Date></t:UTCDateTime></d:SystemDateAndTime></d:GetSystemDateAndTimeResponse>"
            )
        if operation == "GetDeviceInformation":
            return (
                "<d:GetDeviceInformationResponse><d:Manufacturer>Example</d:Manufacturer><d:Model>IPC-7</d:Model>"
                "</d:GetDeviceInformationResponse>"
            )
        if operation == "GetServices":
            versions = {"media": "ver10", "media2": "ver20"}
            services = [("http://www.onvif.org/ver10/device/wsdl", "device_service")]
            services += [(f"http://www.onvif.org/{versions[name]}/media/wsdl", name) for name in self.media]
            return "".join(
                f"<d:Service><d:Namespace>{name}</d:Namespace><d:XAddr>{web}{path}</d:XAddr></d:Service>"
                for name, path in services
            )
        if operation == "GetCapabilities":
            return f"<d:Capabilities><t:Media><t:XAddr>{web}media</t:XAddr></t:Media></d:Capabilities>"
        if operation == "GetScopes":
            return "<d:Scopes><t:ScopeItem>onvif://www.onvif.org/name/Front%20Door</t:ScopeItem></d:Scopes>"
        if operation == "GetProfiles":
            media2 = "ver20/media" in body.split("Body", 1)[1] or "trt2:" in body
            return "".join(map(_profile2 if media2 else _profile1, self.profiles))
        if operation == "GetStreamUri":
            found = re.search(r"ProfileToken>([^<]+)<", body)
            assert found
            url = next(profile.url for profile in self.profiles if profile.token == found[1])
            return f"<m:MediaUri><t:Uri>{url}</t:Uri></m:MediaUri>"
        if operation == "GetSnapshotUri":
            return f"<m:MediaUri><t:Uri>http://{host}/snapshot.jpg</t:Uri></m:MediaUri>"
        return UNSUPPORTED


def _profile1(profile: FakeProfile) -> str:
    return (
        f'<m:Profiles token="{profile.token}" fixed="true"><t:Name>{profile.token}</t:Name>'
        f'<t:VideoSourceConfiguration token="vs"><t:Name>v</t:Name><t:SourceToken>{profile.source}</t:SourceToken>'
        f'</t:VideoSourceConfiguration><t:VideoEncoderConfiguration token="ve"><t:Name>e</t:Name>'
        f"<t:Encoding>{profile.codec}</t:Encoding><t:Resolution><t:Width>{profile.width}</t:Width><t:Height>{profile.height}"
        f"</t:Height></t:Resolution><t:RateControl><t:FrameRateLimit>{profile.rate}</t:FrameRateLimit>"
        "<t:EncodingInterval>1</t:EncodingInterval><t:BitrateLimit>2048</t:BitrateLimit></t:RateControl>"
        "</t:VideoEncoderConfiguration></m:Profiles>"
    )


def _profile2(profile: FakeProfile) -> str:
    return (
        f'<m2:Profiles token="{profile.token}" fixed="true"><m2:Name>{profile.token}</m2:Name><m2:Configurations>'
        f'<m2:VideoSource token="vs"><t:Name>v</t:Name><t:SourceToken>{profile.source}</t:SourceToken></m2:VideoSource>'
        f'<m2:VideoEncoder token="ve" GovLength="50" Profile="Main"><t:Name>e</t:Name>'
        f"<t:Encoding>{_CODECS_OF_MEDIA2.get(profile.codec, profile.codec)}</t:Encoding><t:Resolution><t:Width>{profile.width}"
        f'</t:Width><t:Height>{profile.height}</t:Height></t:Resolution><t:RateControl ConstantBitRate="true">'
        f"<t:FrameRateLimit>{profile.rate}.0</t:FrameRateLimit><t:BitrateLimit>2048</t:BitrateLimit></t:RateControl>"
        "</m2:VideoEncoder></m2:Configurations></m2:Profiles>"
    )


def enveloped(body: str) -> bytes:
    """Return a SOAP message with the prefixes of this camera."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<v:Envelope {_NAMESPACES}><v:Body>{body}</v:Body></v:Envelope>'.encode()


def token_is_valid(device: OnvifDevice, body: str) -> bool:
    """Check a WS-Security UsernameToken: user, digest, and time."""
    found = [re.search(rf"<wsse:{name}(?: [^>]*)?>([^<]*)<", body) for name in ("Username", "Nonce", "Password")]
    created = re.search(r"<wsu:Created>([^<]*)<", body)
    if not all(found) or created is None:
        return False
    user, nonce, digest = (match[1] for match in found if match)
    secret = base64.b64decode(nonce) + created[1].encode() + PASSWORD.encode()
    if (user, digest) != (USER, base64.b64encode(hashlib.sha1(secret).digest()).decode()):
        return False
    sent = datetime.fromisoformat(created[1]).timestamp()
    return abs(sent - time.time() - device.clock_offset_s) <= device.tolerance_s


def http_is_valid(device: OnvifDevice, method: str, target: str, header: str) -> bool:
    """Check an ``Authorization`` header with Digest authentication and ``qop=auth``."""
    fields = dict(re.findall(r'(\w+)="?([^",]*)"?', header))
    name = {"MD5": "md5", "SHA-256": "sha256"}[device.algorithm]

    def hashed(text: str) -> str:
        return hashlib.new(name, text.encode()).hexdigest()

    secret, asked = hashed(f"{USER}:cam:{PASSWORD}"), hashed(f"{method}:{target}")
    middle = f"abc123:{fields.get('nc')}:{fields.get('cnonce')}:auth"
    return fields.get("username") == USER and fields.get("response") == hashed(f"{secret}:{middle}:{asked}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


@contextmanager
def serving(device: OnvifDevice) -> Iterator[OnvifDevice]:
    """Serve a camera on a free port of the loopback interface; sets its ``port``."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._handle("GET", "snapshot", "")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            found = re.search(r"Body>\s*<(?:\w+:)?(\w+)", body)
            self._handle("POST", found[1] if found else "", body)

        def _handle(self, method: str, operation: str, body: str) -> None:
            header = self.headers.get("Authorization", "")
            device.requests.append((operation, str(self.headers), body))
            device.attempts += bool(header) or "UsernameToken" in body
            if device.moved_to:
                self._respond(302, b"", [("Location", device.moved_to)])
            elif device.authentication in ("digest", "basic") and not (
                device.authentication == "digest" and http_is_valid(device, method, self.path, header)
            ):
                challenge = 'Basic realm="cam"'
                if device.authentication == "digest":
                    challenge = f'Digest realm="cam", nonce="abc123", qop="auth", algorithm={device.algorithm}'
                self._respond(401, b"", [("WWW-Authenticate", challenge)])
            elif (
                method == "POST"
                and device.authentication == "token"
                and operation not in _OPEN
                and not token_is_valid(device, body)
            ):
                self._respond(device.fault_status, enveloped(NOT_AUTHORIZED))
            elif operation in device.answers or operation in device.statuses:
                answer = device.answers.get(operation, b"")
                self._respond(device.statuses.get(operation, 200), enveloped(answer) if isinstance(answer, str) else answer)
            elif method == "GET":
                self._respond(200, JPEG)
            else:
                answer = device.answer(operation, body)
                self._respond(400 if "Fault" in answer else 200, enveloped(answer))

        def _respond(self, status: int, content: bytes, headers: list[tuple[str, str]] | None = None) -> None:
            if device.drip_s:
                while not over.wait(device.drip_s):
                    self.wfile.write(b"H")
                    self.wfile.flush()
                return
            self.send_response(status)
            for name, value in headers or []:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = _Server(Handler, device.tls)
    device.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield device
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
