"""Results on their way to readers: hub, rows, sinks, and single images."""
