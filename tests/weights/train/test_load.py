"""In which form a target is loaded for training, and on which device."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from server.config import ModelSettings
from server.errors import ConfigError
from server.loading.target import LoadedTarget, TargetFiles, load_target
from tests.doubles import ids
from tests.weights.train.checkpoints import write_checkpoint
from weights.train import load
from weights.train.config import TrainConfig
from weights.train.load import TrainingSource, load_for_training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("targets") / "tiny")


def load_tiny(folder: Path, work: Path, precision: Any = "auto", **wanted: Any) -> TrainingSource:
    config = TrainConfig((Path("t"),), work / "out", work, precision=precision)
    settings = ModelSettings(model=str(folder), cache_dir=work / "cache", **wanted)
    return load_for_training(settings, config, lambda line: None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_precision_that_is_asked_for(folder: Path, tmp_path: Path, dtype: Any) -> None:
    target = load_tiny(folder, tmp_path, dtype=dtype).target
    assert target.form == dtype
    assert target.model.placement.dtype == getattr(torch, dtype)
    assert load_tiny(folder, tmp_path, precision="float32", dtype=dtype).target.form == dtype


def test_the_device_that_is_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # auto would take it
    target = load_tiny(folder, tmp_path, device="cpu", dtype="float32").target
    assert target.model.placement.device == target.embedding.device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device='cuda': this machine has no usable GPU"):
        load_tiny(folder, tmp_path, device="cuda")
    asked = list[str]()

    def pick(device: str) -> torch.device:
        asked.append(device)
        return torch.device("cpu")

    monkeypatch.setattr(load, "pick_device", pick)
    load_tiny(folder, tmp_path, device="cuda", dtype="float32")
    assert asked == ["cuda"]


def test_weights_in_8_bits(folder: Path, tmp_path: Path) -> None:
    """They are refused as the server refuses them: this model's widths are no multiples of 32."""
    for dtype, reason in (("bfloat16", "layer widths"), ("float32", "needs bfloat16 on a CPU")):
        with pytest.raises(ConfigError, match=f"quantization='int8': .*{reason}"):
            load_tiny(folder, tmp_path, dtype=dtype, quantization="int8")


@pytest.mark.parametrize("form", ["float32", "bfloat16"])
def test_the_precision_of_features_that_are_there(folder: Path, tmp_path: Path, form: str) -> None:
    """Which one is faster is measured, and a resumed run must not come to another answer."""
    features = tmp_path / "features"
    features.mkdir()
    index = {"target": "t", "glimpse_hidden": False, "top_k": 4, "dtype": "float32"}
    lists = {"glimpse_layers": [0]}
    (features / "features.json").write_text(json.dumps(index | lists | {"form": form}))
    assert load_tiny(folder, tmp_path).target.form == form


@pytest.mark.parametrize(("backend", "is_native"), [("auto", True), ("transformers", False)])
def test_whose_code_runs_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any, is_native: bool
) -> None:
    """The same as writes the text and serves."""
    found = list[TargetFiles]()

    def loaded(files: TargetFiles, *arguments: Any, **options: Any) -> LoadedTarget:
        found.append(files)
        return load_target(files, *arguments, **options)

    monkeypatch.setattr(load, "load_target", loaded)
    load_tiny(folder, tmp_path, dtype="float32", model_backend=backend)
    assert [files.hf is None for files in found] == [is_native]


def test_a_target_without_template_continues_prompts(tmp_path: Path) -> None:
    """As stage 1 has counted and asked them."""
    plain = write_checkpoint(tmp_path / "plain", template=None)
    loaded = load_tiny(plain, tmp_path, dtype="float32")
    assert list(loaded.prompt_ids("ab")) == ids("ab")
