"""Floor 4: what a network's precision is worth, measured on pictures."""
