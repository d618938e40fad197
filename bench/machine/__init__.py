"""`glidecape bench`: the speed and memory of the server on this machine."""
