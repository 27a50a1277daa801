"""Clips of events: cut from the coded video, kept in a bounded folder."""
