"""Plans: deployment graphs compiled by TensorRT or TensorRT-RTX; built and cached here, and run by ``plan_engine.py``."""
