"""How packets reach viewers: ICE, sockets, and the parts of aiortc and aioice on which this depends."""
