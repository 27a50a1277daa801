"""Clips of events: cut from the encoded video, stored in a folder of limited size."""
