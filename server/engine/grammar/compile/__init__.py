"""Grammars are compiled in workers, which can be ended, before the server follows them."""
