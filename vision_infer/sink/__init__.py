"""Floor 2: results leave. One file for each kind."""
