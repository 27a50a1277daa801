"""Floor 2: which frames form the next batch. Pure: no threads, no sleep, no I/O; time is always an argument."""
