"""Verification: imports, exports, and the accuracy and speed of reduced precisions."""
