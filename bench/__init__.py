"""Benchmarks: what this machine allows, then what the server reaches, then one line of JSON."""
