"""Live sources: cameras and live URLs through FFmpeg, and the built-in test pattern."""
