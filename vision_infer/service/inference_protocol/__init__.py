"""The Open Inference Protocol v2 without its transports: models, tensors, and inference."""
