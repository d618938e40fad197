"""Figures of measured rounds, with intervals, and their tables. Pure."""
