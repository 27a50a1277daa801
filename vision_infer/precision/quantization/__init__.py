"""Reduction of precision: FP16 and INT8 graphs, calibration, and the search for layers that stay in FP32."""
