"""A system that answers each prompt with its last token, repeated; started as real workers are.

python fake_worker.py LINE        LINE is what the process prints before it speaks the protocol
"""

import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3] / "bench/peers/workers"))
job_loop: Any = import_module("job_loop")


def load(options: dict[str, Any]) -> Any:
    """options: `fails` with that text, if there."""
    if "fails" in options:
        raise ValueError(options["fails"])
    sys.stdout.write("loading, as libraries say\n")
    os.write(1, b"and from C\n")
    jobs = {"generate": generate, "die": die, "hang": hang, "break": break_}
    return job_loop.System({"version": "1", "weights": "none", "way": "echo"}, jobs)


def generate(prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
    return {"seconds": 0.5, "token_ids": [[ids[-1]] * new_tokens for ids in prompts]}


def die() -> dict[str, Any]:
    sys.stderr.write("out of luck\n")
    sys.stderr.flush()
    os._exit(3)


def hang() -> dict[str, Any]:
    time.sleep(600)
    return {}


def break_(reason: str) -> dict[str, Any]:
    raise RuntimeError(reason)


if __name__ == "__main__":
    job_loop.run(load)
