"""Recorded sources: video files and images."""
