"""Which replica gets a request: the one that has most of its prompt in its prefix cache."""
