"""The runtimes: each module opens deployment graphs in one of them, and describes it for ``engine/registry.py``."""
