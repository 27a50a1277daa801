"""Tests and benchmarks that require an NVIDIA GPU: ``make test-gpu`` and ``make bench-gpu``."""
