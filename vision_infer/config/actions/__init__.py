"""What is done with chosen frames and events: samples for labeling, and messages to people."""
