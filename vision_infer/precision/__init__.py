"""Floor 4: what a network's precision is worth, measured on pictures."""

AUTOTUNE_MODULE = "vision_infer.precision.auto"
"""The module that autotunes engines in a child process and judges their accuracy on videos."""
