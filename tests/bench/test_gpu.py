"""`bench/gpu` from end to end on a tiny model; its arithmetic on made-up times."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu import steps as gpu


def test_every_section_runs_and_lands_in_the_json(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--tiny", "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == found
    assert found["device"] == "CPU" and found["copy_bytes_per_s"] > 0
    tiny = found["tiny"]
    assert {(c["context"], c["batch"]) for c in tiny["steps"]} == {
        (32, 1), (32, 2), (64, 1), (64, 2),
    }  # fmt: skip
    assert set(tiny["verify_seconds"]) == {"1", "4"}
    assert tiny["draft_seconds"] > 0
    assert set(tiny["transformers_tok_s"]) == {"generate", "assisted"}
    assert len(tiny["synthetic_speedups"]) == 4
    engine = {(cell["batch"], cell["policy"]): cell for cell in tiny["engine"]}
    assert set(engine) == {(b, p) for b in (1, 2) for p in ("off", "cape", "auto")}
    assert engine[2, "off"]["tokens_per_step"] == 1
    assert all(c["device_seconds"] > 0 and c["wall_seconds"] > 0 for c in engine.values())
    for title in ("plain step", "verification", "a drafted token", "the engine", "synthetic"):
        assert title in done.stdout


def test_speedups_are_the_papers_formula() -> None:
    """A chain of 5 at α = 0.6 has (1 - 0.6^6) / 0.4 = 2.38336 tokens a step; here it costs 1.25 and
    5 x 0.05 plain steps. 64 nodes stand for the 32 that were not measured."""
    session = gpu.Session(torch.device("cpu"), time.monotonic() + 60, True)
    found: gpu.Json = {}
    gpu.show_speedups(session, "x", 0.002, {1: 0.002, 8: 0.0025, 64: 0.004}, 0.0001, found)
    speedups = found["synthetic_speedups"]
    assert speedups["chain of 5, α 0.60"] == pytest.approx(2.38336 / 1.5)
    assert speedups["CaPE, 3.5 tokens a step"] == pytest.approx(3.5 / 2.2)


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.fail("this test is for machines without a GPU: deselect it")
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no GPU" in done.stderr
