"""Other programs for the same work, each in an environment of its own; nothing of theirs is imported by ours."""
