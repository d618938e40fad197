"""The training loop."""

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple

import torch
from torch import nn

from server.errors import GlidecapeError
from weights.train.config import TrainConfig
from weights.train.fit.averaging import WeightAverage
from weights.train.fit.batches import EpochOrder, FeatureReader, Located, TrainBatch, micro_batches
from weights.train.fit.checkpoint import RunState
from weights.train.fit.draft import TrainableDraft
from weights.train.fit.head_loss import batch_loss
from weights.train.fit.parallel import Workers
from weights.train.fit.schedule import Budget, learning_rate
from weights.train.fit.vocabulary import Vocabulary


class StepResult(NamedTuple):
    """Figures of one optimizer step."""

    loss: float
    """Mean loss over its rows."""
    rows: tuple[int, ...]
    """Number of rows per delay from 1."""
    right: tuple[int, ...]
    """Number of rows per delay from 1 whose best token is the target's."""
    tokens: int


class TrainingError(GlidecapeError):
    """A step can't be learnt from.

    Args:
        step: counted from 1.
        norm: norm of the gradient.
    """

    def __init__(self, step: int, loss: float, norm: float) -> None:
        super().__init__(
            f"step {step:,}: the loss is {loss:.4g} and the gradient's norm {norm:.4g}; training "
            "has ended, and the checkpoint of an earlier step is kept"
        )


@dataclass(frozen=True, slots=True)
class Learner:
    """The draft with its optimizer and what its loss needs."""

    draft: TrainableDraft
    optimizer: torch.optim.Optimizer
    average: WeightAverage[TrainableDraft]
    """Of the draft's weights."""
    vocabulary: Vocabulary
    """The draft's vocabulary, with the head in the precision of products."""
    dtype: torch.dtype
    """Precision of matrix products."""
    workers: Workers

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]


def make_optimizer(draft: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; norms and biases without decay."""
    matrices = [weight for weight in draft.parameters() if weight.dim() > 1]
    vectors = [weight for weight in draft.parameters() if weight.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


def draw_delays(
    positions: torch.Tensor, max_delay: int, generator: torch.Generator
) -> torch.Tensor:
    """A delay per row [B, R], as frequent as in blocks of a random length of 1 to `max_delay`.

    Whole blocks need not be drawn: a one-layer draft's rows don't see each other's delay.
    """
    length = torch.randint(1, max_delay + 1, positions.shape, generator=generator)
    within = (torch.rand(positions.shape, generator=generator) * length).long()
    return torch.minimum(within + 1, positions)


class Trainer:
    """Runs optimizer steps until the budget is spent."""

    def __init__(
        self,
        config: TrainConfig,
        learner: Learner,
        reader: FeatureReader,
        order: EpochOrder,
        state: RunState,
    ) -> None:
        self.config, self.learner, self.reader = config, learner, reader
        self.order, self.state = order, state

    def run(
        self,
        budget: Budget,
        before_step: Callable[[float], None],
        after_step: Callable[[StepResult], None],
    ) -> None:
        """Moves the state on; its seconds take in what the callables do.

        Args:
            before_step: is told the progress, 0 to 1.

        Raises:
            TrainingError: as a step.
            KeyboardInterrupt: draft and state are those behind a whole step.
        """
        state, last = self.state, time.perf_counter()
        while budget.progress(state.step, state.seconds) < 1:
            batches = self.order.batches(state.epoch)
            for samples in batches[state.batch :]:
                before_step(budget.progress(state.step, state.seconds))
                with _undisturbed():  # weights and counters are kept together
                    result = self._step(samples, budget.progress(state.step, state.seconds))
                    state.step, state.batch = state.step + 1, state.batch + 1
                    state.tokens += result.tokens
                    now = time.perf_counter()
                    state.seconds, last = state.seconds + now - last, now
                after_step(result)
                if budget.progress(state.step, state.seconds) >= 1:
                    return
            state.epoch, state.batch = state.epoch + 1, 0

    def _step(self, samples: Sequence[Located], progress: float) -> StepResult:
        """Raises TrainingError, before any weight is changed, where the loss or the gradient is no
        number."""
        config, learner, state = self.config, self.learner, self.state
        self._set_rate(progress)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
        num_rows = sum(located.sample.num_labels for located in samples)
        parts, workers = list[Part](), learner.workers
        for micro in micro_batches(samples, config.micro_batch_tokens):
            batch = self.reader.batch(micro)
            if batch.copy_sources is not None:
                sources = batch.copy_sources.forgetting(config.forgotten_copies, generator)
                batch = batch._replace(copy_sources=sources)
            delays = draw_delays(batch.positions, config.max_delay, generator)
            shares = batch.shares(delays, workers.count)
            parts += workers.map(lambda share: gradients(learner, *share, num_rows), shares)
        tokens = sum(located.sample.num_tokens for located in samples)
        result = _summed([part.result for part in parts], tokens)
        self._update([part.gradients for part in parts], result.loss)
        return result

    def _set_rate(self, progress: float) -> None:
        """A longer plan changes progress: the rate rises once, and what has fallen stays so."""
        config, state = self.config, self.state
        state.is_warm = state.is_warm or progress >= config.warmup
        warmup = 0.0 if state.is_warm else config.warmup
        rate = learning_rate(progress, config.learning_rate, warmup, config.decay)
        if state.has_decayed:
            rate = min(rate, self.learner.rate)
        for group in self.learner.optimizer.param_groups:
            group["lr"] = rate

    def _update(self, parts: Sequence[tuple[torch.Tensor, ...]], loss: float) -> None:
        """Updates the weights.

        Args:
            parts: gradients to be summed, each in the order of the draft's parameters.
        """
        draft, optimizer = self.learner.draft, self.learner.optimizer
        for weight, *grads in zip(draft.parameters(), *parts, strict=True):
            weight.grad = torch.stack(grads).sum(dim=0) if len(grads) > 1 else grads[0]
        norm = float(nn.utils.clip_grad_norm_(draft.parameters(), self.config.gradient_clip))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(self.state.step + 1, loss, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.learner.average.update(self.state.step + 1)


class Part(NamedTuple):
    """The contribution of one share of a step's rows."""

    result: StepResult
    gradients: tuple[torch.Tensor, ...]
    """In the order of the draft's parameters."""


def gradients(learner: Learner, batch: TrainBatch, delays: torch.Tensor, num_rows: int) -> Part:
    """Computes the loss and gradients of one share of a step's rows.

    Args:
        delays: [B, R]
        num_rows: rows of the whole step, whose mean loss is minimised.
    """
    device = learner.vocabulary.device
    batch, on_device = batch.to(device, learner.dtype), delays.to(device)
    with torch.autocast(device.type, learner.dtype, enabled=learner.dtype != torch.float32):
        x = learner.draft(batch, on_device)
    total, is_right = batch_loss(x, learner.vocabulary, batch, on_device)
    found = torch.autograd.grad(total / num_rows, list(learner.draft.parameters()))
    columns = on_device[batch.is_row] - 1
    max_delay = learner.draft.config.max_delay
    rows = torch.bincount(columns, minlength=max_delay)
    hits = torch.bincount(columns[is_right], minlength=max_delay)
    loss = float(total.detach()) / num_rows
    return Part(StepResult(loss, tuple(rows.tolist()), tuple(hits.tolist()), 0), found)


def _summed(parts: Sequence[StepResult], tokens: int) -> StepResult:
    rows = tuple(map(sum, zip(*(part.rows for part in parts), strict=True)))
    right = tuple(map(sum, zip(*(part.right for part in parts), strict=True)))
    return StepResult(sum(part.loss for part in parts), rows, right, tokens)


@contextmanager
def _undisturbed() -> Generator[None, None, None]:
    """Raises a Ctrl-C within the block after it.

    Only the main thread gets signals; in others, and where Ctrl-C does something else than raise
    KeyboardInterrupt, nothing is changed.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    was_pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal was_pressed
        was_pressed = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if was_pressed:
        raise KeyboardInterrupt
