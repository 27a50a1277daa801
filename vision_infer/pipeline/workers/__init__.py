"""The threads that read streams and run inference, and the thread that watches live streams."""
