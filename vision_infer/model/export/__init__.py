"""Export of PyTorch models: build or load them, write them as ONNX with a dynamic batch, and import the files."""
