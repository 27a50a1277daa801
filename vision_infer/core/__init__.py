"""Floor 0: the values that everyone shares. Nothing here does I/O or imports a higher floor."""
