"""Floor 6: the command ``vision-infer``."""
