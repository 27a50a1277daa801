"""Floor 3: connects decoding, scheduling, engines, selection and sinks to the path of the frames."""
