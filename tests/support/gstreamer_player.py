# mypy: ignore-errors
"""A WHEP player of GStreamer's webrtcbin, run by the system's Python, which has its bindings.

    /usr/bin/python3 tests/support/gstreamer_player.py 'application/x-rtp,media=video,encoding-name=H264,…' 30

It prints the offer as a JSON string, reads the answer as a JSON string, prints the number of decoded frames once there are
as many as requested, and ends. Its certificate has an RSA key. tests/preview/test_preview_watch.py starts it.
"""

from __future__ import annotations

import json
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC

LIMIT_S = 20
DECODERS = {
    "H264": "rtph264depay ! h264parse ! openh264dec",
    "H265": "rtph265depay ! h265parse ! libde265dec",
    "VP8": "rtpvp8depay ! vp8dec",
    "VP9": "rtpvp9depay ! vp9dec",
}


def main(caps, wanted):
    """Play until ``wanted`` frames are decoded, or until the time limit."""
    Gst.init(None)
    loop = GLib.MainLoop()
    pipeline = Gst.Pipeline.new("player")
    player = Gst.ElementFactory.make("webrtcbin", "player")
    player.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
    pipeline.add(player)
    frames = 0
    codec = Gst.Structure.from_string(caps)[0].get_string("encoding-name")

    def counted(*_):
        nonlocal frames
        frames += 1
        if frames >= wanted:
            loop.quit()

    def added(_, pad):
        decoder = Gst.parse_bin_from_description(
            f"{DECODERS[codec]} ! fakesink name=counter signal-handoffs=true sync=false", True
        )
        decoder.get_by_name("counter").connect("handoff", counted)
        pipeline.add(decoder)
        decoder.sync_state_with_parent()
        pad.link(decoder.get_static_pad("sink"))

    def gathered(*_):
        if player.get_property("ice-gathering-state") != GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            return
        print(json.dumps(player.get_property("local-description").sdp.as_text()), flush=True)
        text = json.loads(sys.stdin.readline())
        _, message = GstSdp.SDPMessage.new_from_text(text)
        answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
        player.emit("set-remote-description", answer, Gst.Promise.new())

    def offered(promise):
        reply = promise.get_reply()  # owns the offer
        player.emit("set-local-description", reply.get_value("offer"), Gst.Promise.new())

    player.connect("pad-added", added)
    player.connect("notify::ice-gathering-state", gathered)
    pipeline.set_state(Gst.State.PLAYING)
    player.emit("add-transceiver", GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY, Gst.Caps.from_string(caps))
    player.emit("create-offer", None, Gst.Promise.new_with_change_func(offered))
    GLib.timeout_add_seconds(LIMIT_S, loop.quit)
    loop.run()
    print(json.dumps(frames), flush=True)
    pipeline.set_state(Gst.State.NULL)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
