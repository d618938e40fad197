"""The layer study on a tiny target: the same features cut out as computed, and a table."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from bench.paper import ablate as study
from bench.paper.ablate import AblationOptions, Variant, ablate, run_ablation, table, variants
from server.config import ModelSettings
from server.errors import ConfigError
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from tests.engine.tiny import CPU, EOS, MODEL
from weights.train.features.store import read_key
from weights.train.features.target import TrainTarget, prepare_target
from weights.train.fit.validate import Validation

WIDEST = Variant("several", (0, 1), True)
NARROW = Variant("first", (0,), False)
BLIND = Variant("none", (), False)


def target() -> TrainTarget:
    parameters = LlamaParameters(MODEL, Placement(CPU, torch.float32))
    generator = torch.Generator().manual_seed(7)
    for name, slot in parameters.slots().items():
        if "norm" in name:
            slot.fill_(1.0)
        else:
            slot.normal_(0.0, 0.2, generator=generator)
    return prepare_target(parameters, (0, 1))


def write_text(path: Path) -> Path:
    generator = random.Random(1)
    lines = [
        json.dumps({"text_ids": [generator.randrange(EOS) for _ in range(24)]}) for _ in range(150)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def no_prompts(text: str) -> Sequence[int]:
    raise AssertionError("the text has ids throughout")


def run(options: AblationOptions, wanted: Sequence[Variant]) -> study.Results:
    return ablate(options, target(), no_prompts, {EOS}, Console(quiet=True), wanted)


def test_variants_of_a_deep_target() -> None:
    found = variants(30)
    assert [(v.name, v.glimpse_layers) for v in found[:5]] == [
        ("several", (0, 14, 29)),
        ("first", (0,)),
        ("middle", (14,)),
        ("last", (29,)),
        ("none", ()),
    ]
    assert [v.glimpse_hidden for v in found] == [True] * 5 + [False] * 5
    assert len({v.folder for v in found}) == 10


def test_variants_of_a_shallow_target_are_told_apart() -> None:
    assert [v.glimpse_layers for v in variants(2)[:4]] == [(0, 1), (0,), (1,), ()]
    assert [v.name for v in variants(1)[:2]] == ["last", "none"]


@pytest.mark.parametrize("narrow", [NARROW, BLIND], ids=lambda variant: variant.name)
def test_a_narrow_draft_learns_from_features_cut_out_of_the_widest(
    tmp_path: Path, narrow: Variant
) -> None:
    text = write_text(tmp_path / "text.jsonl")
    options = AblationOptions((text,), tmp_path, steps=2, precision="float32")
    together = run(options, [WIDEST, narrow])
    alone = run(AblationOptions((text,), tmp_path / "alone", 2, "float32"), [narrow])
    assert together[1][1] == alone[0][1]
    tensors = [
        load_file(folder / narrow.folder / "draft" / "model.safetensors")
        for folder in (tmp_path, tmp_path / "alone")
    ]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name])
    key = read_key(tmp_path / "several-hidden" / "work" / "features")
    assert key is not None
    assert key.glimpse_layers == (0, 1)
    assert not (tmp_path / narrow.folder / "work" / "features").exists()
    stored = json.loads((tmp_path / "ablation.json").read_text())
    assert [v["label"] for v in stored["variants"]] == ["several (0, 1)", narrow.label]
    assert (tmp_path / "ablation.md").read_text() == table(together) + "\n"


def test_a_finished_study_is_not_run_again(tmp_path: Path) -> None:
    options = AblationOptions((write_text(tmp_path / "text.jsonl"),), tmp_path, 2, "float32")
    first = run(options, [WIDEST, NARROW])
    checkpoints = [tmp_path / v.folder / "work" / "checkpoint.pt" for v in (WIDEST, NARROW)]
    trained = [torch.load(path)["state"]["tokens"] for path in checkpoints]
    assert run(options, [WIDEST, NARROW]) == first
    assert [torch.load(path)["state"]["tokens"] for path in checkpoints] == trained


def test_the_table() -> None:
    rows = table([(WIDEST, Validation(1.5, (0.5, 0.25), 1.75))]).splitlines()
    assert rows[0] == (
        "| layers read | hidden state | delay 1 | delay 2 | tokens per step, chain | loss |"
    )
    assert rows[2] == "| several (0, 1) | with hidden state | 50.0 | 25.0 | 1.75 | 1.500 |"


def test_another_study_or_no_text_is_refused(tmp_path: Path) -> None:
    settings, options = ModelSettings(), AblationOptions((), tmp_path, 1)
    with pytest.raises(ConfigError, match=r"ablate='depth': expected glimpse-layers"):
        run_ablation(settings, "depth", options)
    with pytest.raises(ConfigError, match="training text"):
        run_ablation(settings, "glimpse-layers", options)
