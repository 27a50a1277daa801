"""A candidate model in the shadow of the current one: it gets live frames in spare capacity, and its results are compared."""
