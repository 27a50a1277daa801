"""Floor 2: a deployment graph → results. One file for each runtime; ``open.py`` chooses."""
