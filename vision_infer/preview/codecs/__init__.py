"""Video codecs for WebRTC: RTP payloads, facts of the bitstream, and the choice of a codec in an offer."""
