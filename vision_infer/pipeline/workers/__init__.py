"""The threads that read streams and run inference, and what watches over them."""
