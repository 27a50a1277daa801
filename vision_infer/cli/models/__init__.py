"""The commands ``model …`` and ``quantize``: import, export, pull, list and quantize models."""
