"""The gRPC server of the Open Inference Protocol v2."""
