"""Floor 2: a file or URL → frames."""
