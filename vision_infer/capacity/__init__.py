"""Floor 6: what this machine can carry (bench), and what a set of cameras needs and costs (plan)."""
