"""Several worker processes behind one page and API: placement of streams, supervision, and the routing of requests."""
