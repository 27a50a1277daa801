"""Floor 2: which frames make the next batch. Pure: no thread, no sleep, no I/O; the time is an argument everywhere."""
