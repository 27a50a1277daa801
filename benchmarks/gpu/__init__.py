"""What only a machine with an NVIDIA GPU can tell: ``make test-gpu`` and ``make bench-gpu``."""
