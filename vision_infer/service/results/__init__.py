"""Delivery of results: hub, rows, sinks, snapshots, and single images."""
