"""The commands ``bench`` and ``plan``: what this machine can do, and what a set of cameras needs."""
