"""Glidecape: an OpenAI-compatible inference server with GliDe + CaPE speculative decoding."""

__version__ = "0.1.0"
