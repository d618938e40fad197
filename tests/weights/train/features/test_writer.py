"""The feature cache: what is in it, and what becomes of it when a run is killed or changed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from server.errors import CheckpointError, ConfigError
from tests.weights.train.tiny import (
    LAYERS,
    VOCABULARY,
    no_prompt,
    run_target,
    tiny_target,
    write_text,
)
from weights.train.features import store as feature_store
from weights.train.features.store import (
    FeatureKey,
    FeatureStore,
    Shard,
    plan_shards,
    within,
)
from weights.train.features.target import TrainTarget
from weights.train.features.writer import FeatureWriter, write_features
from weights.train.fit import batches
from weights.train.fit.batches import FeatureReader, locate
from weights.train.fit.vocabulary import Vocabulary
from weights.train.text.samples import Sample, read_samples

KNOWN = torch.arange(3, 51)


@pytest.fixture(scope="module")
def target() -> TrainTarget:
    return tiny_target()


@pytest.fixture(scope="module")
def samples(target: TrainTarget, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    text = write_text(tmp_path_factory.mktemp("text") / "text.jsonl", target, 40)
    (longer := text.with_name("longer.jsonl")).write_text(
        '{"text_ids": [' + ", ".join(str(i % VOCABULARY) for i in range(70)) + "]}\n"
    )
    return read_samples([text, longer], no_prompt, VOCABULARY, 100)


def key_of(model: TrainTarget, **changes: Any) -> FeatureKey:
    settings: dict[str, Any] = {
        "target": model.identity, "glimpse_layers": LAYERS, "glimpse_hidden": True, "top_k": 4,
        "dtype": "float32", "form": model.form,
    }  # fmt: skip
    return replace(FeatureKey(**settings), **changes)


def write(folder: Path, target: TrainTarget, shards: Sequence[Shard]) -> FeatureStore:
    store = FeatureStore(folder, key_of(target))
    write_features(FeatureWriter(target, store.key), store, shards, lambda tokens: None)
    return store


def reader_of(store: FeatureStore, target: TrainTarget) -> FeatureReader:
    return FeatureReader(store, Vocabulary(KNOWN, target.head, most_own=4), copy_hint=False)


def contents(store: FeatureStore, shards: Sequence[Shard]) -> list[bytes]:
    return [store.path(shard).read_bytes() for shard in shards]


def test_features_are_what_the_engine_would_have(
    target: TrainTarget, samples: list[Sample], tmp_path: Path
) -> None:
    """Each sample as if alone, though many go through the target together."""
    shards = plan_shards(samples, 300)
    reader = reader_of(write(tmp_path, target, shards), target)
    for located in locate(shards):
        sample = located.sample
        caches, hidden = run_target(target, sample.token_ids.tolist())
        batch = reader.batch([located])
        assert batch.token_ids[0].tolist() == sample.token_ids.tolist()
        for at, layer in enumerate(LAYERS):
            for part, pool in enumerate(caches[layer]):
                expected = pool.flatten(0, 1)[: sample.num_tokens]
                torch.testing.assert_close(batch.kv[0, :, at, part], expected)
        assert batch.hidden is not None
        torch.testing.assert_close(batch.hidden[0], hidden)
        rows = slice(sample.first_loss, sample.num_tokens - 1)
        assert batch.positions[0].tolist() == list(range(sample.num_tokens))[rows]
        probs = target.model.logits(hidden[rows]).softmax(-1)
        top = probs.topk(4)
        torch.testing.assert_close(batch.labels.probs.float(), top.values, rtol=2e-3, atol=1e-5)
        assert torch.equal(batch.labels.token_ids.long(), top.indices)


def test_few_files_are_open_at_once(
    target: TrainTarget, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = plan_shards(samples, 100)
    store = write(tmp_path, target, shards)
    opened, live = list[Path](), WeakSet[Any]()

    class Counted:
        def __init__(self, path: Path, framework: str) -> None:
            self.get_slice = safe_open(path, framework=framework).get_slice
            opened.append(path)
            live.add(self)

    monkeypatch.setattr(batches, "safe_open", Counted)
    monkeypatch.setattr(batches, "_MOST_FILES", 3)
    reader = reader_of(store, target)
    firsts = [locate([shard])[0] for shard in shards]
    for _ in range(2):
        for first in firsts:
            stored = load_file(store.path(first.shard))["kv"][: first.sample.num_tokens]
            assert torch.equal(reader.batch([first]).kv[0], stored)
            assert len(live) <= 3
    reader.batch(firsts[-3:])  # those that were used last
    assert len(opened) == 2 * len(shards) > 12


def test_bytes_are_as_estimated(target: TrainTarget, samples: list[Sample], tmp_path: Path) -> None:
    (shard,) = plan_shards(samples, 10**6)
    store = write(tmp_path, target, [shard])
    shape = FeatureWriter(target, store.key).shape()
    stored = sum(tensor.nbytes for tensor in load_file(store.path(shard)).values())
    assert stored == sum(map(shape.sample_bytes, samples))


def test_a_killed_run_completes_with_the_same_content(
    target: TrainTarget, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = plan_shards(samples, 200)
    assert len(shards) > 4
    whole = write(tmp_path / "whole", target, shards)
    save = feature_store.save_file
    count = 0

    def killed(tensors: dict[str, torch.Tensor], path: Path) -> None:
        nonlocal count
        count += 1
        save(tensors, path)
        if count == 3:  # half of the file is on disk
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(feature_store, "save_file", killed)
        write(tmp_path / "killed", target, shards)
    store = FeatureStore(tmp_path / "killed", key_of(target))
    assert [store.has(shard) for shard in shards[:4]] == [True, True, False, False]
    first = store.path(shards[0]).stat().st_mtime_ns
    write(tmp_path / "killed", target, shards)
    assert contents(store, shards) == contents(whole, shards)
    assert store.path(shards[0]).stat().st_mtime_ns == first


def test_the_deadline_ends_it_with_what_is_complete(
    target: TrainTarget, samples: list[Sample], tmp_path: Path
) -> None:
    shards = plan_shards(samples, 200)
    store, written = FeatureStore(tmp_path, key_of(target)), list[int]()
    writer = FeatureWriter(target, store.key)
    for _ in range(2):  # the second time there is something to learn from already
        write_features(writer, store, shards, written.append, deadline=0.0)
        assert [store.has(shard) for shard in shards[:2]] == [True, False]
    assert written == [shards[0].num_tokens]
    write_features(writer, store, shards, written.append)
    assert written == [shard.num_tokens for shard in shards]


def test_a_draft_without_glimpses_needs_no_kv(
    target: TrainTarget, samples: list[Sample], tmp_path: Path
) -> None:
    (shard,) = plan_shards(samples, 10**6)
    store = FeatureStore(tmp_path, key_of(target, glimpse_layers=()))
    write_features(FeatureWriter(target, store.key), store, [shard], lambda tokens: None)
    batch = reader_of(store, target).batch(locate([shard])[:2])
    assert batch.kv.shape == (2, batch.token_ids.shape[1], 0, 2, 2, 8)


def test_text_that_grew_keeps_full_shards(samples: list[Sample]) -> None:
    before, after = plan_shards(samples[:30], 200), plan_shards(samples, 200)
    assert [s.name for s in before[:-1]] == [s.name for s in after[: len(before) - 1]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "another"}, "another target"),
        ({"glimpse_layers": (1, 2)}, "another glimpse_layers"),
        ({"top_k": 5, "dtype": "bfloat16"}, "another top_k and dtype"),
        ({"form": "int8"}, "the target with float32, here .* with int8; set device and dtype .*"),
    ],
)
def test_features_of_something_else_are_refused(
    target: TrainTarget, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    FeatureStore(tmp_path, key_of(target))
    with pytest.raises(CheckpointError, match=f"holds features of {reason}$"):
        FeatureStore(tmp_path, key_of(target, **changes))


def test_features_of_before_forms_were_told_apart(target: TrainTarget, tmp_path: Path) -> None:
    FeatureStore(tmp_path, key_of(target))
    path = tmp_path / "features.json"
    index = json.loads(path.read_text())
    assert index.pop("form") == "float32"
    path.write_text(json.dumps(index))
    FeatureStore(tmp_path, key_of(target, form="int8"))
    with pytest.raises(CheckpointError, match=r"features of another top_k$"):
        FeatureStore(tmp_path, key_of(target, top_k=5))


@pytest.mark.parametrize("content", ["{", "{}", '{"glimpse_layers": [1]}'])
def test_a_broken_index(target: TrainTarget, tmp_path: Path, content: str) -> None:
    (tmp_path / "features.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"features\.json: (broken|is no index)"):
        FeatureStore(tmp_path, key_of(target))


def names_of(shards: Sequence[Shard]) -> list[str]:
    return [shard.name for shard in shards]


def test_what_does_not_fit_the_limit_is_left_out(
    target: TrainTarget, samples: list[Sample]
) -> None:
    shape = FeatureWriter(target, key_of(target)).shape()
    shards = plan_shards(samples, 100)
    total = shape.num_bytes(shards)
    assert within(shards, shape, None, {}) == within(shards, shape, total, {}) == shards
    half = within(shards, shape, total // 2, {})
    assert 0.3 * total < shape.num_bytes(half) <= total // 2
    assert [name for name in names_of(shards) if name in names_of(half)] == names_of(half)
    assert names_of(half) != names_of(shards)[: len(half)]  # by digest, not by place


def test_a_larger_limit_and_more_text_keep_what_is_there(
    target: TrainTarget, samples: list[Sample]
) -> None:
    """Else a longer run would begin again, and want the disk for it."""
    shape = FeatureWriter(target, key_of(target)).shape()
    before = plan_shards(samples[:30], 100)
    chosen = within(before, shape, shape.num_bytes(before) // 2, {})
    stored = {shard.name: shape.num_bytes([shard]) for shard in chosen}
    grown = plan_shards(samples, 100)
    for limit in (shape.num_bytes(chosen), shape.num_bytes(before)):
        again = within(grown, shape, limit, stored)
        assert stored.keys() <= set(names_of(again))
        assert shape.num_bytes(again) <= limit
    # What is there takes its room also where the text is used no more.
    others = within(grown, shape, shape.num_bytes(before), {"old": shape.num_bytes(chosen)})
    assert shape.num_bytes(others) <= shape.num_bytes(before) - shape.num_bytes(chosen)


def test_a_shard_that_does_not_fit_is_cut(target: TrainTarget, samples: list[Sample]) -> None:
    shape = FeatureWriter(target, key_of(target)).shape()
    (whole,) = plan_shards(samples)
    (part,) = within([whole], shape, shape.num_bytes([whole]) // 3, {})
    assert part.samples == whole.samples[: len(part.samples)]
    assert 5 < len(part.samples) < len(whole.samples) / 2
    assert within([whole], shape, 1, {}) == []


def test_too_small_a_disk(
    target: TrainTarget, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Callable[..., Any] = feature_store.disk_usage
    monkeypatch.setattr(
        feature_store, "disk_usage", lambda path: usage(path)._replace(free=600 * 2**20)
    )
    store = FeatureStore(tmp_path, key_of(target))
    shape = FeatureWriter(target, store.key).shape()
    shards = plan_shards(samples)
    store.check_disk(shards, shape)
    shape = shape._replace(num_kv_heads=10**6)
    with pytest.raises(ConfigError, match=r"need [\d.]+ GiB more .* only 0\.6 GiB are free"):
        store.check_disk(shards, shape)


def test_identity_tells_targets_apart() -> None:
    assert tiny_target().identity == tiny_target().identity != tiny_target(seed=1).identity
    other = tiny_target(rms_norm_eps=1e-6)
    assert other.identity != tiny_target().identity


def test_samples_are_told_apart_by_where_learning_starts(samples: list[Sample]) -> None:
    later = samples[0]._replace(first_loss=samples[0].first_loss + 1)
    assert later.digest != samples[0].digest
