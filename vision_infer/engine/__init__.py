"""Floor 2: a deployment graph → results. ``registry.py`` lists the runtimes in ``runtimes/``, ``open.py`` opens engines."""
