"""The paths of RTSP URLs by the maker of the camera, and how to recognize the maker.

A path of another maker only leads to an answer such as 404, so a wrong guess does no harm. Cameras with ONVIF return their URLs
themselves. The sources were read in 2026. Not verified in a document of the maker: Dahua, TP-Link, and Uniview for cameras
without a recorder; their paths are those that owners report.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CameraMaker:
    """A maker, and the paths of its streams. ``{channel}`` is the number of the camera at a recorder, from 1."""

    name: str
    main: str
    """The path and query of the main stream."""
    sub: str = ""
    """The path and query of the second stream; empty if its number is not fixed."""
    realm: str = ""
    """A regular expression that matches the beginning of the realm of its RTSP server; empty if no typical one is known."""
    later: str = ""
    """The path of the main stream from the second channel on, if it differs."""

    def paths(self, channel: int) -> tuple[str, str]:
        """Return the paths of the main and of the second stream of a channel, from 1; the second may be empty."""
        main = self.later if self.later and channel > 1 else self.main
        return main.format(channel=channel, index=channel - 1), self.sub.format(channel=channel)


MAKERS = (
    # Camera=N and resolution=WxH: https://developer.axis.com/video-streaming-and-recording/video-streaming/getting-started/ and
    # VAPIX version 3, Video Streaming API, section 3.4. Realm: https://github.com/home-assistant/core/issues/122159
    CameraMaker(
        "Axis",
        "/axis-media/media.amp?camera={channel}",
        "/axis-media/media.amp?camera={channel}&resolution=640x360",
        "AXIS_",
    ),
    # The parameters line, inst and h26x:
    # https://knowledge.keenfinity-group.com/video-systems/article/how-is-rtsp-usage-supported-with-bosch-vip-devices
    # Realm: https://github.com/deepch/RTSPtoWebRTC/issues/204
    CameraMaker(
        "Bosch", "/?h26x=4&line={channel}&inst=1", "/?h26x=4&line={channel}&inst=2", "Please log in with a valid username"
    ),
    # Reported by owners; realm: https://github.com/scottlamb/retina/issues/62
    CameraMaker(
        "Dahua",
        "/cam/realmonitor?channel={channel}&subtype=0",
        "/cam/realmonitor?channel={channel}&subtype=1",
        "Login to ",
    ),
    # The owner numbers the profiles; the examples use the second. The sensors of a camera with several count from 0:
    # https://support.hanwhavision.eu/hc/en-gb/articles/4414178841746-RTSP-URL-s
    # Realm: https://github.com/Ullaakut/cameradar/issues/199
    CameraMaker("Hanwha", "/profile2/media.smp", realm="iPOLiS", later="/{index}/profile2/media.smp"),
    # Channel × 100 + 1 for the main stream, + 2 for the second:
    # http://enpinfo.hikvision.com/unzip/20201110210551_77443_doc/GUID-515FF2B5-5E01-4F03-8B81-4CA5BD621965.html
    # Path and realm: https://github.com/google/ExoPlayer/issues/9800
    CameraMaker("Hikvision", "/Streaming/Channels/{channel}01", "/Streaming/Channels/{channel}02", r"IP Camera\("),
    # https://support.reolink.com/hc/en-us/articles/900000630706-Introduction-to-RTSP/
    # Realm: https://github.com/mbullington/yellowstone/issues/86
    CameraMaker("Reolink", "/Preview_{channel:02}_main", "/Preview_{channel:02}_sub", "BC Streaming Media"),
    # Reported by owners of Tapo and VIGI cameras: https://github.com/koush/scrypted/issues/1835
    # Realm: https://github.com/mpromonet/webrtc-streamer/issues/698
    CameraMaker("TP-Link", "/stream1", "/stream2", "(?i:TP-Link IP-Camera)"),
    # From the manual of a recorder: https://github.com/CamioCam/rtsp/issues/133
    CameraMaker("Uniview", "/unicast/c{channel}/s0/live", "/unicast/c{channel}/s1/live"),
)


def maker_of(realm: str) -> CameraMaker | None:
    """Return the maker whose RTSP server has this realm; None if it is not known."""
    return next((maker for maker in MAKERS if maker.realm and re.match(maker.realm, realm)), None)


def suggested_paths(realm: str) -> str:
    """Return which paths to try if the one of an RTSP URL is wrong.

    Args:
        realm: The realm of the server's challenge; empty if it sent none.
    """
    maker = maker_of(realm)
    if maker is not None:
        main, sub = maker.paths(1)
        return (
            f"It seems to be a camera of {maker.name}: try the path {main}{f', or {sub} for the second stream' if sub else ''}."
        )
    return f"Paths by maker: {'; '.join(f'{maker.name} {maker.paths(1)[0]}' for maker in MAKERS)}."
