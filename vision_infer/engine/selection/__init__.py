"""The choice of an engine: candidates, measurements on this machine, and what they have decided."""
