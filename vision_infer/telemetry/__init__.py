"""Floor 2: what is counted and measured while frames pass, in fixed memory."""
