"""Compiles the kernels that read the KV pool for GPUs that need not be there, and prints what came
of them as JSON: run by `test_compilation.py` in a process without Triton's interpreter."""

# pyright: reportPrivateUsage=false

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from server.kernels.triton import attention, gather

_TYPES = {"bfloat16": "bf16", "float32": "fp32"}


def compiled(kernel: Any, signature: dict[str, str], constants: dict[str, Any], capability: int,
             num_stages: int) -> dict[str, int]:  # fmt: skip
    """Shared memory in bytes, and how the pool is read: how many loads take two bytes, and how many
    copy 16 behind the computation."""
    names = kernel.arg_names
    types = {name: signature.get(name, "constexpr") for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*") and name in ("query", "keys", "results", "logsumexps", "pool")
    }
    source = ASTSource(kernel, types, places, aligned)
    options = {"num_warps": attention.NUM_WARPS, "num_stages": num_stages}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code = made.asm["ptx"]
    narrow = sum("ld.global" in line and ".b16" in line for line in code.splitlines())
    return {"shared": made.metadata.shared, "narrow": narrow, "ahead": code.count("cp.async.cg")}


def attend(capability: int, dtype: str, head_dim: int, granule: int) -> dict[str, int]:
    """Attention with a mask, 4 query heads to a KV head."""
    of_pool = f"*{_TYPES[dtype]}"
    tiles = ("tile_sequences", "tile_rows", "tile_counts")
    sequences = ("first_rows", "context_lens", "node_counts")
    signature = {
        **dict.fromkeys(("query", "keys"), of_pool),
        **dict.fromkeys(("results", "logsumexps"), "*fp32"),
        **dict.fromkeys(("layers", "positions", "slots", "tables"), "*i64"),
        **dict.fromkeys((*tiles, *sequences), "*i32"),
        **dict.fromkeys(("first_tile", "base_row", "table_stride", "ancestor_stride"), "i32"),
        "ancestors": "*i1",
        "scale": "fp32",
    }
    block_n, num_stages = attention.loop_of(head_dim, getattr(torch, dtype))
    sizes = {"LAYERS": 1, "KV_HEADS": 8, "GROUP": 4, "HEAD_DIM": head_dim, "PAGE": 16}
    blocks = {"BLOCK_M": 64, "BLOCK_N": block_n, "BLOCK_D": head_dim, "GRANULE": granule}
    constants = sizes | blocks | {"HAS_MASK": True, "SPLIT": 256, "MOST_SPLITS": 64}
    return compiled(attention._attend, signature, constants, capability, num_stages)


def copy(capability: int, granule: int) -> dict[str, int]:
    """The moves of accepted nodes' KV."""
    signature = {"pool": "*bf16", "num_moves": "i32"}
    signature |= dict.fromkeys(("offsets", "sources", "targets"), "*i64")
    constants = {"WIDTH": 1024, "GRANULE": granule, "MOVES": 64, "BLOCK": 32}
    return compiled(gather._copy, signature, constants, capability, 3)


if __name__ == "__main__":
    kernels = {"attend": attend, "copy": copy}
    made = [kernels[name](*case) for name, *case in json.loads(sys.argv[1])]
    sys.stdout.write(json.dumps(made))
