"""GliDe drafts on disk: what is saved loads again, what is broken is refused by name."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from server.errors import CheckpointError, UnsupportedModelError
from server.models.glide import GlideModel
from server.models.layers import Placement
from tests.kernels.paged import Nodes
from tests.models.dense_glide import CPU, Draft, make_draft, random_target_kv
from tests.models.glide_drafts import (
    STEPS,
    VERIFIED,
    PagedDraft,
    assert_same_logits,
    dense_chain,
    final_hidden,
    text,
)
from weights.glide import load_glide, save_glide

FLOAT32 = Placement(CPU, torch.float32)
SAVED: dict[str, Draft] = {
    "plain": make_draft(),
    "trimmed": make_draft(draft_vocab_size=20),
    "own": make_draft(own_embedding=True, own_head=True, num_layers=2),
    "hidden": make_draft(glimpse_hidden=True, glimpse_layers=((0, 3),)),
}
Tensors = dict[str, torch.Tensor]


def load(folder: Path, draft: Draft) -> GlideModel:
    return load_glide(folder, draft.target, FLOAT32, draft.target_embedding, draft.target_head)


def assert_drafts_as(model: GlideModel, draft: Draft) -> None:
    """The loaded model against the plain implementation on `draft`'s weights."""
    kv, hidden = random_target_kv(draft.target, VERIFIED), final_hidden(draft.target)
    paged = PagedDraft(draft, [kv])
    paged.model = model
    tokens = text()
    paged.fill(Nodes(0, 0, tokens[:VERIFIED]))
    rows = [
        paged.draft(
            Nodes(0, VERIFIED + i, tokens[VERIFIED + i :][:1]),
            verified=[VERIFIED], hidden=hidden[None], delay=i + 1,
        )
        for i in range(STEPS)
    ]  # fmt: skip
    assert_same_logits(torch.cat(rows), dense_chain(draft, kv, tokens, VERIFIED, hidden))


@pytest.mark.parametrize("name", SAVED)
def test_save_and_load(name: str, tmp_path: Path) -> None:
    draft = SAVED[name]
    save_glide(tmp_path / "new" / "draft", draft.config, draft.weights)
    model = load(tmp_path / "new" / "draft", draft)
    assert_drafts_as(model, draft)
    if draft.config.draft_vocab_size is not None:
        assert torch.equal(model.draft_token_ids, draft.weights["draft_token_ids"])


@pytest.mark.skipif(os.name != "posix", reason="needs a umask")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_mode_of_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        save_glide(tmp_path, SAVED["plain"].config, SAVED["plain"].weights)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("config.json", "model.safetensors"), 0o666 & ~umask)


def test_saving_over_an_older_draft(tmp_path: Path) -> None:
    for name in ("own", "plain"):
        save_glide(tmp_path, SAVED[name].config, SAVED[name].weights)
    assert_drafts_as(load(tmp_path, SAVED["plain"]), SAVED["plain"])


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def with_ids(ids: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update(draft_token_ids=ids)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("model.norm.weight"), r"is missing 1 tensor: model\.norm\.weight"),
        (without("draft_token_ids"), "is missing 1 tensor: draft_token_ids"),
        (lambda t: t.update(extra=torch.ones(2)), "has left-over 1 tensor: extra"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(9)}),
            r"model\.norm\.weight has shape \[9\], the model needs \[24\]",
        ),
        (with_ids(torch.arange(20.0)), r"float32 \[20\], the model needs int64 \[20\]"),
        (with_ids(torch.arange(19)), r"int64 \[19\], the model needs int64 \[20\]"),
        (with_ids(torch.arange(20) + 40), "ids 40 to 59, the target knows 53"),
        (with_ids(torch.arange(20) - 1), "ids -1 to 18, the target knows 53"),
        (with_ids(torch.arange(20) // 2), "lists a token twice"),
    ],
)
def test_broken_drafts_are_refused(
    spoil: Callable[[Tensors], object], message: str, tmp_path: Path
) -> None:
    draft = SAVED["trimmed"]
    tensors = dict(draft.weights)
    spoil(tensors)
    save_glide(tmp_path, draft.config, tensors)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, draft)


def test_untrimmed_draft_with_a_table_is_refused(tmp_path: Path) -> None:
    draft = SAVED["plain"]
    save_glide(tmp_path, draft.config, {**draft.weights, "draft_token_ids": torch.arange(20)})
    with pytest.raises(CheckpointError, match="has left-over 1 tensor: draft_token_ids"):
        load(tmp_path, draft)


def test_draft_of_another_target_is_refused(tmp_path: Path) -> None:
    draft = SAVED["plain"]
    save_glide(tmp_path, draft.config, draft.weights)
    other = replace(draft, target=replace(draft.target, num_kv_heads=4))
    with pytest.raises(UnsupportedModelError, match="KV heads of 2, the target's is 4"):
        load(tmp_path, other)


def test_no_config_and_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: No such file"):
        load(tmp_path, SAVED["plain"])
    save_glide(tmp_path, SAVED["plain"].config, SAVED["plain"].weights)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds neither"):
        load(tmp_path, SAVED["plain"])


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="can't be written"):
        save_glide(tmp_path / "file", SAVED["plain"].config, SAVED["plain"].weights)
