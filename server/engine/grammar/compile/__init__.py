"""Compiles grammars. Worker processes, which can be ended, try each one before the server does."""
