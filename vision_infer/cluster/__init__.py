"""Cameras on several machines: placement, ownership, and the connection to Ray, which only this package imports."""
