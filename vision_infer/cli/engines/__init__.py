"""The commands ``engine …``: build, list, inspect and remove engines."""
