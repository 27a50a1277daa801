"""Devices with their own memory: CUDA, buffers on the device, and the engine that all models there share."""
