"""Floor 3: what differs between the results of two runs."""
