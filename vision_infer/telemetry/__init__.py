"""Floor 2: counters and measurements of frames, in fixed memory."""
