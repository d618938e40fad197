"""How much of the text a run has time for."""

import pytest
import torch

from weights.train.features.store import FeatureShape, Shard, plan_shards
from weights.train.text.samples import Sample
from weights.train.time_plan import TimedText

SHAPE = FeatureShape(1, 2, 8, 0, 4, torch.float32)


@pytest.fixture
def shards() -> list[Shard]:
    """20 of 100 tokens."""
    samples = [Sample((torch.arange(20) + i).int().numpy(), 1) for i in range(100)]
    found = plan_shards(samples, 100)
    assert {shard.num_tokens for shard in found} == {100}
    return found


def stored(shards: list[Shard]) -> dict[str, int]:
    return {shard.name: SHAPE.num_bytes([shard]) for shard in shards}


def test_nothing_is_there(shards: list[Shard]) -> None:
    text = TimedText(shards, SHAPE, {})
    assert (text.num_done, text.missing) == (0, shards)
    assert text.share(text.num_tokens) == 1
    assert text.limit(1.0) is None
    share = text.share(text.num_tokens / 2)
    assert share == pytest.approx(0.5)
    assert 0.3 * text.num_tokens < text.tokens_to_do(share) <= 0.55 * text.num_tokens
    assert text.tokens_to_do(1.0) == text.num_tokens


def test_what_is_there_takes_no_time(shards: list[Shard]) -> None:
    there = shards[3:8]
    text = TimedText(shards, SHAPE, stored(there))
    assert text.num_done == sum(shard.num_tokens for shard in there)
    assert text.share(0) < 1
    assert text.tokens_to_do(text.share(0)) == 0  # and all that is there is used
    missing = text.num_tokens - text.num_done
    share = text.share(missing * 0.7)
    assert 0.4 * missing < text.tokens_to_do(share) <= 0.75 * missing
    assert text.share(missing) == 1
    assert TimedText(shards, SHAPE, stored(shards)).share(0) == 1


def test_a_plan_is_the_same_when_some_of_it_is_done(shards: list[Shard]) -> None:
    text = TimedText(shards, SHAPE, {})
    share = text.share(text.num_tokens * 0.6)
    to_do = text.tokens_to_do(share)
    first = min(shards, key=lambda shard: shard.name)
    later = TimedText(shards, SHAPE, stored([first]) | {"left over": 10**9})
    assert later.tokens_to_do(share) == to_do - first.num_tokens
