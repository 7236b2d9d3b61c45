"""Ways to a host's readers: what HOST names, and the connection to it."""
