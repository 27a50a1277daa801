"""Runs over video files: settings, outputs, resume, summary, and the Python interface."""
