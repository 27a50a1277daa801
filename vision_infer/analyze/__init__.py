"""Floor 2: what happens after the engine: select (NMS), track, draw."""
