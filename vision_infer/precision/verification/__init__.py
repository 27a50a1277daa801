"""Verification of accuracy: imports, exports, reduced precision, and drift between engines."""
