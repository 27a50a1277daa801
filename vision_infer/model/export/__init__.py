"""Networks of PyTorch become models: built or loaded, written as ONNX with a free batch, and imported as any other file."""
