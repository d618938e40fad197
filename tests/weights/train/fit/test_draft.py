"""The training forward against the engine's step-by-step drafting: same weights, same text, every
delay. What differs here would be learnt for nothing."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from server.engine.drafters.context_tokens import ContextTokens
from server.engine.drafters.drafter import EarlyStop
from server.engine.drafters.glide import GlideDrafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.speculation.lookup import TextIndexes
from server.errors import UnsupportedModelError
from server.kernels.types import CopyHints
from server.models.config import RopeConfig
from server.models.glide_parameters import TOKEN_TABLE
from tests.engine.drafters.test_ngram import sequence
from tests.kernels.paged import Nodes
from tests.models.dense_glide import (
    CPU,
    KV,
    VOCABULARY,
    Draft,
    make_draft,
    random_target_kv,
    target_config,
)
from tests.models.glide_drafts import PagedDraft, paged_chain
from weights.train.features.labels import SoftLabels
from weights.train.fit.batches import TrainBatch
from weights.train.fit.copy_hints import NOWHERE, CopySources, side_by_side, sources_of
from weights.train.fit.draft import TrainableDraft
from weights.train.fit.vocabulary import OwnTokens, Vocabulary

MAX_DELAY = 6
LENGTHS = (1, 9, 21)
"""Verified tokens; behind each, drafting starts."""
LENGTH = max(LENGTHS) + MAX_DELAY
MHA = target_config(num_kv_heads=4)
WINDOWS = target_config(sliding_windows=(None, 9, None, 6, 4))

DRAFTS: dict[str, Draft] = {
    "last-layer": make_draft(max_delay=MAX_DELAY),
    "three-layers": make_draft(glimpse_layers=((0, 2, -1),), draft_vocab_size=20),
    "hidden": make_draft(glimpse_hidden=True, max_delay=MAX_DELAY),
    "hidden-few-delays": make_draft(glimpse_hidden=True, max_delay=3),
    "three-layers-hidden": make_draft(
        glimpse_layers=((0, 2, -1),), glimpse_hidden=True, max_delay=MAX_DELAY
    ),
    "mha": make_draft(MHA, num_kv_heads=6),
    "mha-two-layers-hidden": make_draft(
        MHA, num_kv_heads=6, glimpse_layers=((1, 3),), glimpse_hidden=True, max_delay=MAX_DELAY
    ),
    "windows": make_draft(WINDOWS, glimpse_layers=((0, 1, 4),)),
    "biases": make_draft(attention_bias=True, cross_bias=True),
    "no-norms": make_draft(cross_norm=False, final_norm=False),
    "cross-rope": make_draft(cross_rope_theta=10_000.0, rope=RopeConfig(theta=50.0)),
    "copies": make_draft(copy_hint=True, max_match=2),
    "copies-hidden": make_draft(copy_hint=True, glimpse_hidden=True, max_delay=MAX_DELAY),
}


def trainable(draft: Draft) -> TrainableDraft:
    """With the draft's weights; their names must be the state's."""
    model = TrainableDraft(draft.config, draft.target, draft.target_embedding)
    model.load_state_dict({n: w for n, w in draft.weights.items() if n != TOKEN_TABLE})
    return model


def head_of(draft: Draft) -> torch.Tensor:
    ids = draft.weights.get(TOKEN_TABLE)
    return draft.target_head if ids is None else draft.target_head[ids]


def train_batch(
    draft: Draft, texts: Sequence[Sequence[int]], kvs: Sequence[Sequence[KV]],
    hidden: Sequence[torch.Tensor], rows: Sequence[Sequence[int]],
) -> TrainBatch:  # fmt: skip
    """rows: per text the positions that are learnt. Padding holds large numbers."""
    width, most = max(map(len, texts)), max(map(len, rows))
    layers = draft.config.glimpsed_layers(0)
    kv_size = (draft.target.num_kv_heads, draft.target.head_dim)
    kv = torch.full((len(texts), width, len(layers), 2, *kv_size), 1e4)
    seen = torch.full((len(texts), width, draft.target.hidden_size), 1e4)
    ids, is_row = torch.zeros(len(texts), width).long(), torch.zeros(len(texts), most).bool()
    positions = torch.stack([torch.tensor([*row, *[row[0]] * (most - len(row))]) for row in rows])
    for i, (text, layer_kv, states) in enumerate(zip(texts, kvs, hidden, strict=True)):
        ids[i, : len(text)], is_row[i, : len(rows[i])] = torch.tensor(text), True
        seen[i, : len(text)] = states
        for j, layer in enumerate(layers):
            kv[i, : len(text), j] = torch.stack(layer_kv[layer], dim=1)
    labels = SoftLabels(torch.zeros(0), torch.zeros(0), torch.zeros(0))
    own = OwnTokens(torch.zeros(0).long(), torch.zeros(len(texts), 0).long())
    copies = copy_sources(texts)
    return TrainBatch(ids, positions, is_row, kv, seen, labels, own, copies)


def copy_sources(texts: Sequence[Sequence[int]]) -> CopySources:
    return side_by_side([sources_of(np.array(text, dtype=np.int32)) for text in texts])


def random_text(seed: int, length: int) -> list[int]:
    """Some of it is said before."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
    return [*text[: length // 3], *text][:length]


def random_hidden(draft: Draft, seed: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + 100)
    return torch.randn(length, draft.target.hidden_size, generator=generator)


def engine_logits(
    draft: Draft, text: Sequence[int], kv: Sequence[KV], hidden: torch.Tensor, verified: int
) -> torch.Tensor:
    """[delays, draft_vocab]: drafted one by one behind the verified tokens; the target's cache
    holds garbage behind them."""
    seen = [(keys[:verified], values[:verified]) for keys, values in kv]
    state = hidden[verified - 1] if draft.config.glimpse_hidden else None
    tokens = text[: verified + MAX_DELAY]
    copies = looked_up(text[: verified + 1]) if draft.config.copy_hint else None
    return paged_chain(PagedDraft(draft, [seen]), tokens, verified, state, [verified], copies)


def copying_drafter(texts: TextIndexes | None = None) -> GlideDrafter:
    model = PagedDraft(make_draft(copy_hint=True), []).model
    return GlideDrafter(model, [], [], 4, CPU, texts)


def looked_up(text: Sequence[int], drafter: GlideDrafter | None = None) -> CopyHints:
    """What the engine finds behind a text: [delays, 1]."""
    drafter = drafter or copying_drafter()
    found = drafter._looked_up([sequence(text)], range(MAX_DELAY))  # pyright: ignore[reportPrivateUsage]
    return CopyHints(*map(torch.tensor, found))


@pytest.mark.parametrize("verified", LENGTHS)
@pytest.mark.parametrize("name", DRAFTS)
def test_training_forward_equals_drafting(name: str, verified: int) -> None:
    draft = DRAFTS[name]
    text, kv = random_text(0, LENGTH), random_target_kv(draft.target, LENGTH)
    hidden = random_hidden(draft, 0, LENGTH)
    expected = engine_logits(draft, text, kv, hidden, verified)
    rows = range(verified, verified + MAX_DELAY)
    batch = train_batch(draft, [text], [kv], [hidden], [rows])
    actual = trainable(draft)(batch, torch.arange(1, MAX_DELAY + 1)[None]) @ head_of(draft).T
    assert expected.std() > 0.3, "logits too flat to tell drafts apart"
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["three-layers-hidden", "mha", "windows", "copies-hidden"])
def test_padded_sequences_and_mixed_delays(name: str) -> None:
    """Two texts of different length, each position at another delay, as in training."""
    draft = DRAFTS[name]
    lengths = (LENGTH, 14)
    texts = [random_text(i, length) for i, length in enumerate(lengths)]
    kvs = [random_target_kv(draft.target, length, i) for i, length in enumerate(lengths)]
    hidden = [random_hidden(draft, i, length) for i, length in enumerate(lengths)]
    rows = [list(range(1, lengths[0] - 1)), list(range(7, 13))]
    batch = train_batch(draft, texts, kvs, hidden, rows)
    delays = torch.minimum(torch.arange(batch.positions.numel()) % MAX_DELAY + 1,
                           batch.positions.flatten()).view_as(batch.positions)  # fmt: skip
    actual = trainable(draft)(batch, delays) @ head_of(draft).T
    places = [(i, at) for i in range(2) for at in range(len(rows[i]))]
    assert len(actual) == len(places)
    for row, (i, at) in zip(actual, places, strict=True):
        delay = int(delays[i, at])
        verified = rows[i][at] - delay + 1
        expected = engine_logits(draft, texts[i], kvs[i], hidden[i], verified)[delay - 1]
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


def test_what_is_looked_up_is_what_the_engine_finds() -> None:
    """At every row and delay of texts that repeat themselves more and less."""
    generator = torch.Generator().manual_seed(5)
    texts = [torch.randint(most, (40,), generator=generator).tolist() for most in (2, 5, 12, 400)]
    sources = copy_sources(texts)
    token_ids, found = torch.tensor(texts), set[int]()
    for delay in range(1, MAX_DELAY + 1):
        roots = torch.arange(1, 34).expand(len(texts), -1)
        copies = sources.behind(token_ids, roots, torch.full_like(roots, delay))
        for index, text in enumerate(texts):
            for at, root in enumerate(roots[index].tolist()):
                expected = looked_up(text[: root + 1])
                assert copies.token_ids[index, at] == expected.token_ids[delay - 1, 0]
                assert copies.num_equal[index, at] == expected.num_equal[delay - 1, 0]
        found |= set(copies.num_equal.flatten().tolist())
    assert found == set(range(7)), "all numbers of equal tokens are met"


def test_what_is_looked_up_as_the_text_grows() -> None:
    """Some tokens at a time, by a drafter and by lookup on the same indexes: as all at once. When
    the request has ended, another one may have its id."""
    generator = torch.Generator().manual_seed(6)
    texts = TextIndexes()
    drafter, lookup = copying_drafter(texts), NgramDrafter(texts)
    never = EarlyStop.never(1)
    for most in (3, 8):
        text = torch.randint(most, (60,), generator=generator).tolist()
        for end in (5, 6, 9, 17, 18, 30, 60):
            grown = sequence(text[:end])
            if end % 2:
                lookup.draft([grown], [MAX_DELAY], never)
            found, expected = looked_up(text[:end], drafter), looked_up(text[:end])
            assert torch.equal(found.token_ids, expected.token_ids)
            assert torch.equal(found.num_equal, expected.num_equal)
            (proposed,) = lookup.draft([grown], [MAX_DELAY], never)
            if proposed.num_proposed:
                assert list(proposed.trunk) == found.token_ids[:, 0].tolist()
        lookup.forget(sequence(text).request_id)
        drafter.forget(sequence(text).request_id)


def test_some_is_forgotten() -> None:
    """A tenth of 4,000: 6 sigma off but once in 10^9 runs."""
    sources = copy_sources([[0] * 4001])
    forgotten = sources.forgetting(0.1, torch.Generator().manual_seed(0))
    gone = (forgotten.starts == NOWHERE) & (sources.starts != NOWHERE)
    assert abs(int(gone.sum()) - 400) < 6 * (4000 * 0.1 * 0.9) ** 0.5
    assert forgotten.num_equal[gone].eq(0).all()
    assert torch.equal(forgotten.starts[~gone], sources.starts[~gone])
    assert torch.equal(forgotten.num_equal[~gone], sources.num_equal[~gone])


def test_what_is_looked_up_is_demanded() -> None:
    draft = DRAFTS["copies"]
    text, kv = random_text(0, 9), random_target_kv(draft.target, 9)
    batch = train_batch(draft, [text], [kv], [random_hidden(draft, 0, 9)], [[5]])
    with pytest.raises(ValueError, match="copy hint"):
        trainable(draft)(batch._replace(copy_sources=None), torch.ones(1, 1).long())


def test_what_cannot_be_trained_is_refused() -> None:
    for draft in (
        make_draft(num_layers=2),
        make_draft(own_head=True),
        make_draft(own_embedding=True),
    ):
        with pytest.raises(UnsupportedModelError, match="one layer"):
            trainable(draft)


def test_hidden_states_are_demanded() -> None:
    draft = DRAFTS["hidden"]
    text, kv = random_text(0, 9), random_target_kv(draft.target, 9)
    batch = train_batch(draft, [text], [kv], [random_hidden(draft, 0, 9)], [[5]])
    with pytest.raises(ValueError, match="hidden state"):
        trainable(draft)(batch._replace(hidden=None), torch.ones(1, 1).long())


def test_own_tokens_are_those_of_the_engine() -> None:
    """At each row of a text, whatever its delay: which of the sequence's own tokens the draft may
    say, and their logits."""
    draft = make_draft(
        glimpse_layers=((0, 2, -1),), draft_vocab_size=20, context_vocab_size=7, max_delay=MAX_DELAY
    )
    text, kv = random_text(0, LENGTH), random_target_kv(draft.target, LENGTH)
    hidden = random_hidden(draft, 0, LENGTH)
    vocabulary = Vocabulary(draft.weights[TOKEN_TABLE], draft.target_head, most_own=7)
    own = vocabulary.own([np.array(text, dtype=np.int32)])
    rows = range(1, LENGTH - 1)
    batch = train_batch(draft, [text], [kv], [hidden], [rows])._replace(own=own)
    delays = torch.minimum(torch.arange(len(rows)) % MAX_DELAY + 1, batch.positions[0])[None]
    head = vocabulary.head(own)
    actual = trainable(draft)(batch, delays) @ head.weight.T
    shown = batch.is_shown(delays)
    context = ContextTokens(draft.weights[TOKEN_TABLE], 7, lambda ids: draft.target_head[ids])
    sizes = set[int]()
    for at, position in enumerate(rows):
        verified = position - int(delays[0, at]) + 1
        name = str(at)
        tokens = context.of([sequence(text[: verified + 1], name)])
        columns = [own.token_ids.tolist().index(i) for i in tokens.token_ids[0].tolist()]
        assert shown[at].nonzero()[:, 0].tolist() == sorted(columns)
        seen = [(keys[:verified], values[:verified]) for keys, values in kv]
        paged, offset = PagedDraft(draft, [seen]), position - verified
        paged.fill(Nodes(0, 0, text[:verified]))
        expected = [
            paged.draft(
                Nodes(0, verified + step, [text[verified + step]]),
                verified=[verified], delay=step + 1, own=tokens,
            )[0]
            for step in range(offset + 1)
        ][-1]  # fmt: skip
        mine = actual[at, [*range(20), *(21 + column for column in columns)]]
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
        sizes.add(len(columns))
    assert len(sizes) > 2, "rows that show more and more"
    assert max(sizes) == 7, "the limit is not met"
