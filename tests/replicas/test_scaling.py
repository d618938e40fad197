"""Replicas that come and go while requests are open."""

import json
import subprocess
import sys
from pathlib import Path

from tests.weights.train.checkpoints import write_checkpoint

PROGRAM, TOKENS = "tests.replicas.scaling_down", 1000


def test_a_replica_that_is_taken_away_finishes_its_requests(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    done = subprocess.run(
        [sys.executable, "-m", PROGRAM, str(model), str(tmp_path / "cache"), str(TOKENS)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "open when one was taken away": 2,
        "tokens": [TOKENS, TOKENS, 4],
        "replicas": 1,
    }
