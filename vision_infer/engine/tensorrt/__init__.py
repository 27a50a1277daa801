"""Deployment graphs compiled by TensorRT or TensorRT-RTX: built and kept here, run by ``tensorrt_engine.py``."""
