"""Discovery and probing of cameras."""
