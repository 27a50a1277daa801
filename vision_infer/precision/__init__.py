"""Floor 4: accuracy of models and reduced precisions, measured on images."""

AUTOTUNE_MODULE = "vision_infer.precision.autotune_with_accuracy"
"""The module that autotunes engines in a child process and judges their accuracy on videos."""
