"""Random tokens said twice, beside the text of a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.errors import CheckpointError
from tests.weights.train.tiny import VOCABULARY, no_prompt, tiny_config
from weights.train.shards import read_shards
from weights.train.text.repeated import copies_beside
from weights.train.text.samples import Sample

AVOIDED = {0, 60}
ALLOWED = np.arange(1, 60, dtype=np.int32)


def samples(count: int) -> list[Sample]:
    generator = np.random.default_rng(1)
    return [Sample(generator.integers(1, 60, 50, dtype=np.int32), 4) for _ in range(count)]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3])
def test_the_second_time_can_be_known_by_the_first(share: float) -> None:
    beside = samples(200)
    found = list(copies_beside(beside, share, ALLOWED, seed=3))
    for sample in found:
        first, second = np.split(sample.token_ids, 2)
        assert np.array_equal(first, second)
        assert sample.first_loss == len(first) and 16 <= len(first) <= 48
        assert not AVOIDED & set(sample.token_ids.tolist())
        assert sample.is_random and not sample.held_out
    learnt = sum(sample.num_labels for sample in found)
    whole = learnt + sum(sample.num_labels for sample in beside)
    assert share * whole <= learnt <= share * whole + 48
    assert len({sample.digest for sample in found}) == len(found)


def test_no_share() -> None:
    assert not list(copies_beside(samples(3), 0.0, ALLOWED, seed=3))


def test_the_seed_and_the_text_decide_the_tokens() -> None:
    def digests(count: int, seed: int) -> list[bytes]:
        found = copies_beside(samples(20)[-count:], 0.1, ALLOWED, seed)
        return [sample.digest for sample in found]

    assert digests(20, 3) == digests(20, 3)
    assert not set(digests(20, 3)) & set(digests(20, 4))
    assert not set(digests(20, 3)) & set(digests(19, 3))


def lines_of_text(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    texts = (generator.integers(1, 60, 1000).tolist() for _ in range(count))
    return [json.dumps({"text_ids": ids}) + "\n" for ids in texts]


def test_text_that_is_added_leaves_the_shards_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    config = tiny_config(tmp_path, path, copied_share=0.05)
    lines = lines_of_text(60, seed=2)

    def names(count: int) -> list[str]:
        path.write_text("".join(lines[:count]))
        shards = read_shards(config, no_prompt, VOCABULARY, AVOIDED)
        for shard in shards:
            assert not any(
                AVOIDED & set(s.token_ids.tolist()) for s in shard.samples if s.is_random
            )
            learnt = sum(s.num_labels for s in shard.samples)
            assert 0.05 <= sum(s.num_labels for s in shard.samples if s.is_random) / learnt < 0.1
        return [shard.name for shard in shards]

    few, many = names(40), names(60)
    assert len(many) > len(few) > 2
    assert many[: len(few) - 1] == few[:-1]


def test_a_file_has_the_same_shards_beside_others(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for seed, path in enumerate(paths[:2]):
        path.write_text("".join(lines_of_text(20, seed)))
    paths[2].write_text("")
    config = tiny_config(tmp_path, paths[0], copied_share=0.05)

    def names(*some: Path) -> list[str]:
        found = read_shards(replace(config, text=some), no_prompt, VOCABULARY, AVOIDED)
        return [shard.name for shard in found]

    a, b, empty = paths
    assert len({*names(a), *names(b)}) == len(names(a)) + len(names(b)) > 2
    assert names(a, b) == names(a, empty, b) == names(a) + names(b)
    assert names(b, a) == names(b) + names(a)
    with pytest.raises(CheckpointError, match="no text to learn from"):
        names(empty)
