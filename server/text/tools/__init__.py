"""Function calls in text: how each family of models writes them, and how an answer is read.

Knows no API's JSON shapes.
"""
