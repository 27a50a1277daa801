"""Lanes: engines with one input size each, the table of lanes, and the replacement of an engine while the lane runs."""
