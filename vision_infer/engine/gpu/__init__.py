"""Devices with memory of their own: CUDA, buffers on the device, and what all engines there share."""
