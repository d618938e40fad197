from pathlib import Path

import pytest

from server.models.config import model_config
from tests.weights.train.checkpoints import write_checkpoint
from weights.checkpoint import read_config
from weights.train import checks
from weights.train.config import TrainConfig


def test_what_is_written_is_not_needed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = list[int]()
    monkeypatch.setattr(checks, "check_disk", lambda folder, count: needed.append(count))
    config = TrainConfig((tmp_path / "t",), tmp_path / "out", tmp_path / "work")
    shape = model_config(read_config(write_checkpoint(tmp_path / "tiny")))
    checks.check_machine(config, shape, 10**6)
    (tmp_path / "work" / "features").mkdir(parents=True)
    for name, size in (("text.jsonl", 3000), ("features/a.safetensors", 10**6)):
        (tmp_path / "work" / name).write_bytes(bytes(size))
    checks.check_machine(config, shape, 10**6)
    assert needed[0] - needed[1] == 1_003_000
    checks.check_machine(config, shape, 1000)
    draft = int(1.6 * checks.layer_weights(shape))
    assert needed[2] == 2**29 + draft * (3 * 16 + 4), "three checkpoints and the draft"
