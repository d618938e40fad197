"""Going on from a draft: what of it decides, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from server.errors import CheckpointError, ConfigError, UnsupportedModelError
from server.models.glide_parameters import TOKEN_TABLE
from tests.weights.train.tiny import (
    STOP_ID,
    VOCABULARY,
    no_prompt,
    tiny_config,
    tiny_target,
    write_text,
)
from weights.checkpoint import SINGLE_FILE
from weights.train.config import TrainConfig
from weights.train.features.target import TrainTarget
from weights.train.fit.earlier_draft import draft_files, with_its_shape
from weights.train.fit.vocabulary import draft_vocabulary
from weights.train.text.samples import read_samples
from weights.train.train import train


@pytest.fixture(scope="module")
def target() -> TrainTarget:
    return tiny_target()


@pytest.fixture(scope="module")
def trained(target: TrainTarget, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_config(folder, write_text(folder / "text.jsonl", target, 300), steps=20)
    train(config, target, no_prompt, {STOP_ID}, Console(quiet=True))
    return config


def begun(trained: TrainConfig, folder: Path, **changes: Any) -> TrainConfig:
    """Settings as they are where nothing was asked for but the draft."""
    settings: dict[str, Any] = {"glimpse_layers": None, "draft_vocab_size": 8192, "max_delay": 6}
    settings |= {"from_draft": trained.out} | changes
    return tiny_config(folder, trained.text[0], **settings)


def changed(trained: TrainConfig, folder: Path, **changes: object) -> Path:
    """A copy of the draft with another config."""
    out = folder / "changed"
    out.mkdir()
    raw = json.loads((trained.out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(raw | changes))
    (out / SINGLE_FILE).write_bytes((trained.out / SINGLE_FILE).read_bytes())
    return out


def test_nothing_to_go_on_from(trained: TrainConfig, target: TrainTarget) -> None:
    assert with_its_shape(trained, target.config) is trained


def test_the_drafts_shape_is_taken(
    trained: TrainConfig, target: TrainTarget, tmp_path: Path
) -> None:
    found = with_its_shape(begun(trained, tmp_path), target.config)
    names = ("glimpse_layers", "glimpse_hidden", "copy_hint", "draft_vocab_size", "max_delay")
    assert [getattr(found, n) for n in names] == [getattr(trained, n) for n in names]
    assert found.learning_rate == pytest.approx(trained.learning_rate / 3)


def other_text(folder: Path) -> Path:
    """Text in which a token that the draft can't say anywhere is the most frequent one."""
    path = folder / "other.jsonl"
    said = [token_id for token_id in range(VOCABULARY) if token_id != STOP_ID]
    lines = [[said[-1 - i * j % 13] for j in range(120)] for i in range(1, 40)]
    path.write_text("".join(json.dumps({"text_ids": ids}) + "\n" for ids in lines))
    return path


def test_it_begins_with_the_drafts_weights_and_vocabulary(
    trained: TrainConfig, target: TrainTarget, tmp_path: Path
) -> None:
    """Steps of next to no rate leave the draft as it was, on a way that is broken off and gone on
    with too."""
    config = begun(trained, tmp_path, learning_rate=1e-9)
    config = replace(config, text=(other_text(tmp_path),))
    before = load_file(trained.out / SINGLE_FILE)
    chosen = draft_vocabulary(
        read_samples(config.text, no_prompt, VOCABULARY, 2048), 48, VOCABULARY, {STOP_ID}
    )
    assert chosen.tolist() != before[TOKEN_TABLE].tolist()
    for steps in (1, 2):
        shaped = with_its_shape(replace(config, steps=steps), target.config)
        train(shaped, target, no_prompt, {STOP_ID}, Console(quiet=True))
        after = load_file(config.out / SINGLE_FILE)
        for name, weight in before.items():
            assert torch.equal(weight, after[name]), name


def test_the_same_shape_may_be_asked_for(
    trained: TrainConfig, target: TrainTarget, tmp_path: Path
) -> None:
    given = {"glimpse_layers": (0, -1), "copy_hint": True, "draft_vocab_size": 48}
    found = with_its_shape(begun(trained, tmp_path, **given), target.config, given)
    assert found.glimpse_layers == (0, 2)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"glimpse_layers": (1,)}, r"glimpse_layers=\(1,\): .*draft has \(0, 2\), which stays"),
        ({"copy_hint": False}, "copy_hint=False: .*has True"),
        ({"draft_vocab_size": 40}, "draft_vocab_size=40: .*has 48"),
        ({"draft_vocab_size": 8192}, "draft_vocab_size=8192: .*has 48"),  # the default
        ({"context_vocab_size": 3}, "context_vocab_size=3: .*has 128"),
    ],
)
def test_another_shape_is_refused(
    trained: TrainConfig, target: TrainTarget, tmp_path: Path, given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        with_its_shape(begun(trained, tmp_path, **given), target.config, given)


def test_a_draft_of_a_shape_that_is_not_trained(
    trained: TrainConfig, target: TrainTarget, tmp_path: Path
) -> None:
    wide = changed(trained, tmp_path, intermediate_size=64)
    with pytest.raises(ConfigError, match=r"has intermediate_size=64; drafts .* here have 48"):
        with_its_shape(begun(trained, tmp_path, from_draft=wide), target.config)


def test_a_draft_of_another_target(trained: TrainConfig, tmp_path: Path) -> None:
    other = replace(tiny_target().config, vocab_size=77)
    with pytest.raises(UnsupportedModelError, match="vocabulary of 61"):
        with_its_shape(begun(trained, tmp_path), other)


def test_weights_in_several_files(
    trained: TrainConfig, target: TrainTarget, tmp_path: Path
) -> None:
    folder = changed(trained, tmp_path)
    tensors = load_file(folder / SINGLE_FILE)
    (folder / SINGLE_FILE).unlink()
    names = sorted(tensors)
    files = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({n: tensors[n] for n in names if files[n] == file}, folder / file)
    (folder / f"{SINGLE_FILE}.index.json").write_text(json.dumps({"weight_map": files}))
    with_its_shape(begun(trained, tmp_path, from_draft=folder), target.config)
    found = [path.name for path in draft_files(folder)]
    assert found == ["config.json", "part-0.safetensors", "part-1.safetensors"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop(TOKEN_TABLE), f"missing 1 tensor: {TOKEN_TABLE}"),
        (lambda tensors: tensors.pop("model.norm.weight"), "missing 1 tensor: model.norm"),
        (lambda tensors: tensors[TOKEN_TABLE].fill_(3), "lists a token twice"),
        (lambda tensors: tensors[TOKEN_TABLE].add_(VOCABULARY), "the target knows 61"),
    ],
)
def test_weights_are_looked_at_before_any_work(
    trained: TrainConfig, target: TrainTarget, tmp_path: Path, change: Any, reason: str
) -> None:
    folder = changed(trained, tmp_path)
    tensors = load_file(folder / SINGLE_FILE)
    change(tensors)
    save_file(tensors, folder / SINGLE_FILE)
    config = begun(trained, tmp_path, from_draft=folder)
    with pytest.raises(CheckpointError, match=reason):
        with_its_shape(config, target.config)
    (folder / SINGLE_FILE).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=SINGLE_FILE):
        with_its_shape(config, target.config)
