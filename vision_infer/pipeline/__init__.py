"""Floor 3: joins decoding, scheduling, engines, selection and sinks into the way of the data."""
