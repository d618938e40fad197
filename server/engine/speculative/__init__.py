"""Speculative decoding: draft, expand, verify, accept, commit. No token is ever changed by it."""
