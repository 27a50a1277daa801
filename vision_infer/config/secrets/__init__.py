"""Secrets of the configuration: references to them, and the credentials of cameras."""
