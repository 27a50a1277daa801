"""Lanes: an engine with one input size each, the table of them, and the exchange of an engine while it runs."""
