"""Comparison with other programs, each in a separate environment; this package imports nothing of them."""
