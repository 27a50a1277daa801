"""The streams of a running service: settings, admission, degradation, cost, and lanes."""
