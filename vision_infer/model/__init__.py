"""Floor 2: a raw network and its card become a deployment graph; models are found by name."""
