"""Which replica gets a request: the one for which it is the least work."""
