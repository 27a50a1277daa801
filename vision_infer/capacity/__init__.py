"""Measures what this machine can process (bench), and estimates the machines and the cost for a set of cameras (plan)."""
