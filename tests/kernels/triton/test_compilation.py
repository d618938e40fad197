"""The kernels that read the KV pool, compiled for GPUs that need not be there."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("compiled.py")
ROOT = Path(__file__).parents[3]
SMALL_BLOCK, HOPPER_BLOCK = 99 * 1024, 227 * 1024
"""Shared memory of a block: compute capability 8.6 and 8.9; 9.0."""


def compiled(*cases: tuple[object, ...]) -> list[dict[str, int]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(cases)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_pool_is_read_in_wide_loads() -> None:
    """Offsets of layers come from memory: unless told, the compiler takes two bytes at a time and
    waits for them."""
    wide, narrow, moves = compiled(
        ("attend", 90, "bfloat16", 128, 16), ("attend", 90, "bfloat16", 128, 1), ("copy", 90, 16)
    )
    assert (wide["narrow"], narrow["ahead"], moves["narrow"]) == (0, 0, 0)
    assert narrow["narrow"] >= 64
    assert wide["ahead"] >= 16
    assert wide["shared"] <= HOPPER_BLOCK


def test_attention_fits_into_the_smaller_gpus() -> None:
    for made in compiled(*(("attend", 89, "float32", size, 16) for size in (128, 256))):
        assert made["shared"] <= SMALL_BLOCK
