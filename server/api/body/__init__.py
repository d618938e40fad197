"""Requests as they are read: bounded, parsed, validated, each error with the name of its field."""
