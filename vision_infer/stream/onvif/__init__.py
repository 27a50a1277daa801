"""Asks ONVIF cameras for their video streams: who made them, which streams they offer, and the URLs of these streams."""
