"""Floor 2: a file or URL → frames.

The way of a packet, from the outside in:

- ``source``: the interface, and plain values that describe a source. ``find``: from command-line arguments to open sources.
- ``live/``: ``ingest`` chooses what reads a source: ``live_packets`` with FFmpeg, which ``open_live`` opens, or ``rtp_packets``
  with ``rtsp_stream`` and ``rtsp/``; ``allowed_networks`` and ``guarded_http`` (over ``limited_http``) check the hosts.
  ``sound_reader`` selects the sound while it is wanted. ``capture_clock`` and ``playout`` compute the age of a frame.
  ``nal_units`` and ``backlog`` decide which packets are decoded, ``age_limit`` which frames are too old. ``live_source``
  combines all of these; ``backoff`` computes the wait before the next connection. ``pattern_source`` draws frames instead.
- ``files/``: ``open_video`` opens a file, ``video_file`` reads and decodes it, ``gap_watch`` finds missing frames, and
  ``ordered_times`` restores the times of AVI. ``images`` reads still images.
- ``nvdec``, ``image``, ``color``, ``orientation``, ``crop``: from a decoded frame to the pixels of a slot.
- ``ffmpeg_log`` and ``redact``: what the user sees, without secrets. ``discovery/``: finds and probes cameras.
  ``onvif/``: asks a camera for its streams.
"""
