"""RTSP and RTP without I/O: bytes and times go in, events come out.

No module of this package opens a socket, reads a clock or starts a thread, so each behavior of a server can be tested with bytes:

- :mod:`~vision_infer.stream.rtsp.client`: the dialog with a server, from ``OPTIONS`` to ``TEARDOWN``; its output is in
  :mod:`~vision_infer.stream.rtsp.client_events`
- :mod:`~vision_infer.stream.rtsp.message`: requests, responses and interleaved packets in a stream of bytes
- :mod:`~vision_infer.stream.rtsp.authentication`: Basic and Digest
- :mod:`~vision_infer.stream.rtsp.description`: the SDP of a server, with :mod:`~vision_infer.stream.rtsp.control_url`
- :mod:`~vision_infer.stream.rtsp.video_track`: RTP packets in, pictures out, with :mod:`~vision_infer.stream.rtsp.rtp`,
  :mod:`~vision_infer.stream.rtsp.rtcp`, the depacketizers, and :mod:`~vision_infer.stream.rtsp.picture`

No library on PyPI does this. ``aiortsp`` is LGPL. ``aio-rtsp-toolkit`` (Apache-2.0) joins NAL units, not pictures, has no UDP,
no sender reports and no Digest with ``qop`` or SHA-256, and does not limit what a server may send. Both need asyncio. aiortc can
parse RTP headers, but it is an optional dependency of the preview, and takes three times as long for a packet.
"""
