"""Floor 1: what a user may set, checked and frozen."""
