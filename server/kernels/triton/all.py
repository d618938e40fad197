"""The Triton kernels under the references' names: importing this needs Triton."""

from server.kernels.triton.attention import glimpse_attention, tree_attention
from server.kernels.triton.candidates import top_candidates
from server.kernels.triton.gather import copy_kv
from server.kernels.triton.rows import add_rms_norm, rms_norm, rotary, rotate_and_write, silu_mul
from server.kernels.triton.sampling import argmax, draw

__all__ = [
    "add_rms_norm",
    "argmax",
    "copy_kv",
    "draw",
    "glimpse_attention",
    "rms_norm",
    "rotary",
    "rotate_and_write",
    "silu_mul",
    "top_candidates",
    "tree_attention",
]
