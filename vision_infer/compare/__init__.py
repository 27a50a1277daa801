"""Floor 3: compares the results of two runs."""
