"""Features taken while text is written: those that the target's forward over it would give."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from server.engine.schedule.planner import SchedulerConfig
from server.engine.types import Request, RequestId
from tests.engine.tiny import CONFIG, TinyEngine, make_request, tokens
from tests.weights.train.tiny import (
    LAYERS,
    STOP_ID,
    VOCABULARY,
    no_prompt,
    tiny_config,
    tiny_target,
)
from weights.train.features.record import RowRecorder
from weights.train.features.recorded import (
    RECORDED,
    FeatureRecorder,
    adopt,
    open_recorded,
)
from weights.train.features.store import FeatureKey, FeatureStore, Shard, ShardTensors, plan_shards
from weights.train.features.target import TrainTarget
from weights.train.features.writer import FeatureWriter, feature_shape
from weights.train.shards import read_shards
from weights.train.text.samples import answer_sample, read_samples
from weights.train.text.store import Answer

LIMITS = replace(CONFIG, prefix_caching=False)
LONGEST, SHARD_TOKENS = 100, 120


@pytest.fixture(scope="module")
def target() -> TrainTarget:
    return tiny_target()


@pytest.fixture(scope="module")
def key(target: TrainTarget) -> FeatureKey:
    return FeatureKey(target.identity, LAYERS, True, 4, "float32", target.form)


def requests(count: int) -> list[Request]:
    generator = torch.Generator().manual_seed(5)
    prompts = [
        torch.randint(VOCABULARY, (3 + i % 9,), generator=generator).tolist() for i in range(count)
    ]
    lengths = [8 + 3 * (i % 5) for i in range(count)]
    return [
        make_request(f"r{i}", prompt, max_tokens=length, temperature=i % 2, seed=i)
        for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]


def assert_equal(found: ShardTensors, computed: ShardTensors) -> None:
    """But for what nobody reads: features of an answer's last token."""
    assert found.keys() == computed.keys()
    for name, expected in computed.items():
        part = found[name]
        assert (part.shape, part.dtype) == (expected.shape, expected.dtype)
        if name in ("kv", "hidden"):
            part, expected = part[:-1], expected[:-1]
        torch.testing.assert_close(part.float(), expected.float(), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(
    "limits",
    [
        LIMITS,
        replace(LIMITS, max_num_batched_tokens=5),
        replace(LIMITS, num_blocks=14, max_model_len=48),
    ],
    ids=["", "prompts in chunks", "few blocks"],
)
def test_what_is_recorded_is_what_the_forward_gives(
    target: TrainTarget, key: FeatureKey, limits: SchedulerConfig
) -> None:
    engine = TinyEngine(limits, model=target.model)
    rows, writer = RowRecorder(engine.runner, key), FeatureWriter(target, key)
    asked = requests(12)
    for request in asked[:-1]:
        rows.watch(request.request_id)
    answers = engine.run(asked)
    assert (engine.num_preemptions > 0) == (limits.num_blocks < LIMITS.num_blocks)
    for request in asked:
        said = tokens(answers[request.request_id])
        # As if it had been cut where it went round in circles.
        said = said[: len(said) - (3 if request is asked[0] else 0)]
        sample = answer_sample(request.prompt_token_ids, said, LONGEST)
        assert sample is not None
        found = rows.take(request.request_id, sample)
        if request is asked[-1]:
            assert found is None
            continue
        assert found is not None
        assert_equal(found, writer.compute([sample]))
    again = answer_sample(asked[0].prompt_token_ids, (1, 2, 3), LONGEST)
    assert again is not None and rows.take(asked[0].request_id, again) is None


def test_an_answer_whose_prompt_was_found_is_not_recorded(
    target: TrainTarget, key: FeatureKey
) -> None:
    engine = TinyEngine(replace(LIMITS, prefix_caching=True), model=target.model)
    rows = RowRecorder(engine.runner, key)
    prompt, found = list(range(1, 2 + 2 * LIMITS.block_size)), list[bool]()
    for name in "ab":
        rows.watch(RequestId(name))
        ((_, outputs),) = engine.run([make_request(name, prompt, max_tokens=6)]).items()
        sample = answer_sample(prompt, tokens(outputs), LONGEST)
        assert sample is not None
        found.append(rows.take(RequestId(name), sample) is not None)
    assert found == [True, False]


class Writing:
    """A text file that a tiny target writes, with its features."""

    most_bytes = 10**9

    def __init__(self, folder: Path, target: TrainTarget, key: FeatureKey) -> None:
        self.config = tiny_config(folder, folder / "text.jsonl", top_k=4, copied_share=0.05)
        self.target, self.key = target, key
        self.path, self.work = self.config.text[0], self.config.work

    def shards(self) -> list[Shard]:
        return read_shards(self.config, no_prompt, VOCABULARY, {STOP_ID})

    def write(self, asked: Sequence[Request], unseen: Sequence[int] = ()) -> None:
        """A run of the stage that writes text.

        Args:
            unseen: answers of which nothing is recorded.
        """
        engine = TinyEngine(LIMITS, model=self.target.model)
        written = []
        if self.path.exists():
            written = read_samples([self.path], no_prompt, VOCABULARY, LONGEST)
        recorder = FeatureRecorder(
            RowRecorder(engine.runner, self.key), open_recorded(self.work, self.key),
            feature_shape(self.key, self.target.config), self.most_bytes, written, LONGEST,
            SHARD_TOKENS,
        )  # fmt: skip
        for index, request in enumerate(asked):
            if index not in unseen:
                recorder.begin(request.request_id)
            said = tokens(engine.run([request])[request.request_id])
            answer = Answer("r", 0.0, request.prompt_token_ids, tuple(said), "length")
            with self.path.open("a") as file:
                line = {"prompt_ids": answer.prompt_ids, "response_ids": answer.response_ids}
                file.write(json.dumps(line) + "\n")
            recorder.end(request.request_id, answer)
        recorder.flush()

    def adopt(self) -> tuple[FeatureStore, int]:
        store = FeatureStore(self.work / "features", self.key)
        num_tokens = adopt(self.work, store, FeatureWriter(self.target, self.key), self.shards())
        return store, num_tokens

    def check(self, store: FeatureStore, shard: Shard) -> None:
        found, computed = load_file(store.path(shard)), FeatureWriter(self.target, self.key)
        token = label = 0
        for sample in shard.samples:
            parts = {
                name: part[label : label + sample.num_labels]
                if name in ("probs", "token_ids", "rest")
                else part[token : token + sample.num_tokens]
                for name, part in found.items()
            }
            assert_equal(parts, computed.compute([sample]))
            token, label = token + sample.num_tokens, label + sample.num_labels


@pytest.fixture
def writing(
    tmp_path: Path, target: TrainTarget, key: FeatureKey, monkeypatch: pytest.MonkeyPatch
) -> Writing:
    """With small shards."""
    few = partial(plan_shards, shard_tokens=SHARD_TOKENS)
    monkeypatch.setattr("weights.train.shards.plan_shards", few)
    return Writing(tmp_path, target, key)


def test_shards_of_the_text_are_there_when_it_is_written(writing: Writing) -> None:
    writing.write(requests(30))
    store, num_tokens = writing.adopt()
    shards = writing.shards()
    assert len(shards) > 3
    assert any(sample.is_random for shard in shards for sample in shard.samples)
    for shard in shards:
        writing.check(store, shard)
    text = [sample for shard in shards for sample in shard.samples if not sample.is_random]
    assert num_tokens == sum(sample.num_tokens for sample in text)
    assert not (writing.work / RECORDED).exists()


def test_text_of_which_something_was_not_seen_is_left_to_the_forward(writing: Writing) -> None:
    writing.write(requests(30), unseen=[12])
    store, _ = writing.adopt()
    lacking = [shard for shard in writing.shards() if not store.has(shard)]
    samples = read_samples([writing.path], no_prompt, VOCABULARY, LONGEST)
    assert [samples[12].digest in {s.digest for s in shard.samples} for shard in lacking] == [True]


def test_a_run_that_goes_on_records_what_comes(writing: Writing) -> None:
    """But for the shard that the end of the run before left half full."""
    asked = requests(40)
    writing.write(asked[:13])
    writing.write(asked[13:])
    store, _ = writing.adopt()
    shards = writing.shards()
    has = [store.has(shard) for shard in shards]
    assert has.count(False) == 1
    ends_of_first = has.index(False)
    assert 0 < ends_of_first < len(shards) - 1
    for shard in (shards[0], shards[-1]):
        writing.check(store, shard)


def test_what_was_recorded_for_another_draft_is_dropped(writing: Writing) -> None:
    writing.write(requests(20))
    other = replace(writing.key, glimpse_layers=LAYERS[:1])
    writing.key = other
    store, num_tokens = writing.adopt()
    assert num_tokens == 0
    assert not any(map(store.has, writing.shards()))
    assert not (writing.work / RECORDED).exists()


def test_a_damaged_file_is_left_to_the_forward(writing: Writing) -> None:
    writing.write(requests(20))
    damaged = sorted((writing.work / RECORDED).glob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    store, _ = writing.adopt()
    assert [store.has(shard) for shard in writing.shards()].count(False) == 1


def files(writing: Writing) -> list[Path]:
    return sorted((writing.work / RECORDED).glob("*.safetensors"))


def test_no_more_is_recorded_than_there_is_room_for(writing: Writing) -> None:
    writing.write(requests(20))
    sizes = [path.stat().st_size for path in files(writing)]
    assert len(sizes) > 3
    few = Writing(writing.work.parent / "few", writing.target, writing.key)
    few.most_bytes = sum(sizes[:2])
    few.path.parent.mkdir()
    few.write(requests(20))
    assert 0 < len(files(few)) < len(sizes) - 1
    assert sum(path.stat().st_size for path in files(few)) <= few.most_bytes + 2000  # headers
    store, _ = few.adopt()
    for shard in few.shards():
        if store.has(shard):
            few.check(store, shard)


def test_a_disk_that_takes_no_more_ends_the_recording(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: FeatureStore, shard: Shard, tensors: ShardTensors) -> None:
        calls.append(shard.name)
        raise OSError(28, "No space left on device")

    calls = list[str]()
    monkeypatch.setattr(FeatureStore, "write", full)
    writing.write(requests(20))
    assert len(calls) == 1
