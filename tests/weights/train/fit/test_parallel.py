"""A step's rows shared out over threads: the same step."""

import threading
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from tests.weights.train.tiny import (
    CPU,
    STOP_ID,
    VOCABULARY,
    no_prompt,
    tiny_config,
    tiny_target,
    write_text,
)
from weights.train.fit import parallel
from weights.train.fit.averaging import WeightAverage
from weights.train.fit.batches import FeatureReader, TrainBatch
from weights.train.fit.draft import TrainableDraft
from weights.train.fit.parallel import Workers
from weights.train.fit.trainer import Learner, Part, draw_delays, gradients, make_optimizer
from weights.train.fit.vocabulary import Vocabulary, draft_vocabulary
from weights.train.fit.warm_start import draft_config, warm_start
from weights.train.train import prepare

MAX_DELAY = 4


@pytest.fixture(scope="module")
def batch_and_learner(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainBatch, Learner]:
    """Answers of 6, 24 and 24 tokens side by side, and a draft for them."""
    folder, target = tmp_path_factory.mktemp("shares"), tiny_target()
    text = write_text(folder / "short.jsonl", target, 1, length=6)
    long = write_text(folder / "long.jsonl", target, 3, length=24)
    config = replace(tiny_config(folder, text, glimpse_hidden=True), text=(text, long))
    data = prepare(config, target, no_prompt, {STOP_ID}, Console(quiet=True))
    samples = [located.sample for located in data.training]
    token_ids = draft_vocabulary(samples, 48, VOCABULARY, {STOP_ID})
    vocabulary = Vocabulary(token_ids, target.head, most_own=4)
    batch = FeatureReader(data.store, vocabulary, copy_hint=True).batch(data.training[:3])
    assert len(batch.own.token_ids), "no sequence shows a token of its own"
    assert not bool(batch.is_row.all()), "there is no padding to be shared out"
    shape = draft_config(target.config, (0, 2), True, MAX_DELAY, 48, copy_hint=True)
    draft = TrainableDraft(shape, target.config, target.embedding)
    warm_start(draft, target)
    torch.nn.init.normal_(draft.hidden_proj.weight, std=0.1)
    torch.nn.init.normal_(draft.copy_proj.weight, std=0.1)
    learner = Learner(
            draft, make_optimizer(draft, config), WeightAverage(draft, 0.0), vocabulary,
            torch.float32, Workers(CPU),
        )  # fmt: skip
    return batch, learner


def of_shares(batch: TrainBatch, learner: Learner, count: int) -> list[Part]:
    delays = draw_delays(batch.positions, MAX_DELAY, torch.Generator().manual_seed(3))
    shares = batch.shares(delays, count)
    return [gradients(learner, *share, int(batch.is_row.sum())) for share in shares]


@pytest.mark.parametrize("count", [2, 3, 5, 1000])
def test_shares_add_up_to_the_whole(
    batch_and_learner: tuple[TrainBatch, Learner], count: int
) -> None:
    batch, learner = batch_and_learner
    (whole,) = of_shares(batch, learner, 1)
    parts = of_shares(batch, learner, count)
    assert len(parts) == min(count, batch.is_row.shape[1])
    assert sum(part.result.loss for part in parts) == pytest.approx(whole.result.loss, rel=1e-5)
    for name in ("rows", "right"):
        totals = [sum(of) for of in zip(*(getattr(p.result, name) for p in parts), strict=True)]
        assert tuple(totals) == getattr(whole.result, name)
    for index, expected in enumerate(whole.gradients):
        found = torch.stack([part.gradients[index] for part in parts]).sum(dim=0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_work_is_done_on_as_many_threads_as_there_are_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Results come in the items' order, whoever is first; torch has one thread on each."""
    monkeypatch.setattr(parallel, "default_threads", lambda: 3)
    meeting = threading.Barrier(3, timeout=60)

    def work(item: int) -> tuple[int, int]:
        meeting.wait()  # only three at the same time get past it
        return item, torch.get_num_threads()

    workers = Workers(CPU)
    assert workers.count == 3
    assert workers.map(work, [4, 5, 6]) == [(4, 1), (5, 1), (6, 1)]


def test_one_core_needs_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "default_threads", lambda: 1)
    workers = Workers(CPU)
    assert workers.map(lambda _: threading.current_thread(), [0]) == [threading.main_thread()]
