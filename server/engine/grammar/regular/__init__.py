"""Regular languages: read from Python's syntax, intersected, written as a grammar. Pure."""
