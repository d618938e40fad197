"""One training run: features in, a draft out, with checkpoints, figures and a live line."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import torch
from rich.console import Console

from server.models.glide_config import GlideConfig, config_dict
from server.models.glide_parameters import TOKEN_TABLE
from server.report import Report
from weights.glide import save_glide
from weights.train.config import TrainConfig
from weights.train.features.store import FeatureStore
from weights.train.features.target import TrainTarget
from weights.train.fit.averaging import WeightAverage
from weights.train.fit.batches import EpochOrder, FeatureReader, Located
from weights.train.fit.checkpoint import (
    FILE,
    TRUNK,
    Learnt,
    RunState,
    load_checkpoint,
    save_checkpoint,
)
from weights.train.fit.draft import TrainableDraft
from weights.train.fit.earlier_draft import take_over
from weights.train.fit.figures import (
    Averages,
    draw_curve,
    train_record,
    training_line,
    validation_line,
    validation_record,
    write_curve,
)
from weights.train.fit.parallel import Workers
from weights.train.fit.precision import pick_precision
from weights.train.fit.schedule import Budget, is_decaying
from weights.train.fit.trainer import Learner, StepResult, Trainer, make_optimizer
from weights.train.fit.validate import Validation, Validator
from weights.train.fit.vocabulary import Vocabulary, draft_vocabulary
from weights.train.fit.warm_start import warm_start
from weights.train.out_folder import note_draft
from weights.train.progress import Display, live_line

_RECORD_STEPS = 20
_DEFAULT_EPOCHS = 3.0
FIXED = (
    "seed", "batch_tokens", "micro_batch_tokens", "learning_rate", "warmup", "weight_decay",
    "averaging", "forgotten_copies", "copied_share",
)  # fmt: skip
"""Settings that a run can't change on its way."""


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run learns from, and what it is judged by."""

    store: FeatureStore
    training: Sequence[Located]
    held_out: Sequence[Located]
    stop_token_ids: frozenset[int]
    """Tokens that the draft can always propose."""

    @property
    def num_learnt(self) -> int:
        """Tokens of text to learn, those of random tokens left out."""
        return sum(at.sample.num_labels for at in self.training if not at.sample.is_random)

    @property
    def digest(self) -> str:
        digest = blake2b(digest_size=12)
        for located in self.training:
            digest.update(located.sample.digest)
        return digest.hexdigest()


class TrainingRun:
    """A run that continues from the work folder's checkpoint, or else begins from another draft's
    or the target's weights.

    Raises:
        CheckpointError: the checkpoint is broken or of a run with other settings.
    """

    def __init__(
        self,
        config: TrainConfig,
        draft_config: GlideConfig,
        target: TrainTarget,
        data: RunData,
        report: Report,
    ) -> None:
        device = target.model.placement.device
        self.config, self.data, self.report = config, data, report
        self.draft = TrainableDraft(draft_config, target.config, target.embedding).to(device)
        self._begun_with = self._first_weights(target)
        average = WeightAverage(self.draft, config.averaging)
        self.learnt = Learnt(self.draft, make_optimizer(self.draft, config), average)
        self.identity = run_identity(config, draft_config, data.store.key.target)
        self.state = self._resume(device)
        report(f"training in {self.state.precision} on {device}")
        dtype = getattr(torch, self.state.precision)
        head = target.head.to(device, dtype)
        token_ids = torch.tensor(self.state.vocabulary)
        vocabulary = Vocabulary(token_ids, head, draft_config.context_vocab_size)
        workers = Workers(device)
        self.learner = Learner(*self.learnt, vocabulary, dtype, workers)
        reader = FeatureReader(data.store, vocabulary, draft_config.copy_hint)
        order = EpochOrder(data.training, config.batch_tokens, config.seed)
        self.trainer = Trainer(config, self.learner, reader, order, self.state)
        self.validator = Validator(reader, data.held_out, config.micro_batch_tokens, workers)
        self._steps_per_epoch = len(order.batches(0))

    def _first_weights(self, target: TrainTarget) -> list[int] | None:
        """Fills the draft; returns the vocabulary of one that is gone on from."""
        if self.config.from_draft is not None:
            return take_over(self.draft, self.config.from_draft, target.config)
        warm_start(self.draft, target)
        return None

    def run(self, console: Console) -> Validation | None:
        """Trains to the end and writes the draft; returns the last look at held-out text, None
        where nothing is held out.

        Raises:
            TrainingError: a step can't be learnt from.
            KeyboardInterrupt: a checkpoint is written before it is passed on.
        """
        state = self.state
        with live_line(console) as display:
            if state.step == 0:
                self._begin()
            budget = make_budget(self.config, self._steps_per_epoch, state.look_seconds)
            self._leave_decay(budget)
            try:
                self.trainer.run(budget, self._before_step, _Watch(self, display, budget))
            except KeyboardInterrupt:
                self.checkpoint()
                raise
        self.checkpoint()
        last = self.validate()
        self.checkpoint()  # once more: the look is part of the curve
        write_curve(self.config.out, self.state.curve)
        if not draw_curve(self.config.out, self.state.curve):
            self.report("no picture of the curve: matplotlib is not installed")
        return last

    def _begin(self) -> None:
        began = time.perf_counter()
        self.checkpoint()  # first: a draft without one is not ours to write over
        self.validate()
        self.state.look_seconds = time.perf_counter() - began
        self.state.seconds += self.state.look_seconds

    def checkpoint(self) -> None:
        save_checkpoint(self.config.work / FILE, self.state, self.identity, self.learnt)

    def _before_step(self, progress: float) -> None:
        """Keeps the state as it is before the learning rate falls."""
        if not self.state.has_decayed and is_decaying(progress, self.config.decay):
            save_checkpoint(self.config.work / TRUNK, self.state, self.identity, self.learnt)
            self.state.has_decayed = True

    def _leave_decay(self, budget: Budget) -> None:
        """Goes back to where the learning rate began to fall, where by a new budget it would not
        have fallen yet. The time spent since then stays spent. With a little more time the rate
        goes on falling from where it is."""
        state, progress = self.state, budget.progress(self.state.step, self.state.seconds)
        if not state.has_decayed or is_decaying(progress, self.config.decay):
            return
        trunk = load_checkpoint(self.config.work / TRUNK, self.identity, self.learnt)
        if trunk is None:
            self.report(f"{TRUNK} is gone: going on from weights whose learning rate had fallen")
            state.has_decayed = False
            return
        self.report(f"more time: going on from step {trunk.step:,}, before the rate fell")
        if trunk.text != state.text:
            trunk.epoch, trunk.batch = trunk.epoch + 1, 0
        kept = {"text": state.text, "seconds": state.seconds, "precision": state.precision}
        for name, value in {**asdict(trunk), **kept}.items():
            setattr(state, name, value)

    def validate(self) -> Validation | None:
        """Looks at held-out text if there is some, and writes the draft as it is now: with the
        averaged weights."""
        learner = self.learner
        result = self.validator(learner.average.module, learner.vocabulary, learner.dtype)
        if result is not None:
            self.state.curve.append(validation_record(self.state, result))
        self.save_draft()
        return result

    def save_draft(self) -> None:
        config = self.draft.config
        tensors = {
            name: weight.detach().to(torch.bfloat16)
            for name, weight in self.learnt.average.state_dict().items()
        }
        if config.draft_vocab_size is not None:
            tensors[TOKEN_TABLE] = torch.tensor(self.state.vocabulary)
        note_draft(self.config.work, tensors)
        save_glide(self.config.out, config, tensors)

    def _resume(self, device: torch.device) -> RunState:
        config, text = self.config, self.data.digest
        state = load_checkpoint(config.work / FILE, self.identity, self.learnt)
        if state is None:
            precision = str(pick_precision(config.precision, device)).removeprefix("torch.")
            return RunState(precision=precision, text=text, vocabulary=self._vocabulary())
        if config.precision != "auto":
            state.precision = config.precision
        self.report(f"going on from step {state.step:,}")
        if state.text != text:
            self.report("the text has changed: a new epoch begins")
            state.text, state.epoch, state.batch = text, state.epoch + 1, 0
        return state

    def _vocabulary(self) -> list[int]:
        """The draft's vocabulary, chosen from the text at hand. A run keeps it when text is added
        later, so that the head's columns stay as they are."""
        if self._begun_with is not None:
            return self._begun_with
        shape = self.draft.config
        samples = [at.sample for at in self.data.training if not at.sample.is_random]
        size, vocab_size = shape.num_draft_tokens, shape.target.vocab_size
        return draft_vocabulary(samples, size, vocab_size, self.data.stop_token_ids).tolist()


def make_budget(config: TrainConfig, steps_per_epoch: int, look_seconds: float = 0.0) -> Budget:
    """The budget that was asked for; three epochs if none was.

    Args:
        look_seconds: time kept free for what comes after the last step; half the time at most.
    """
    epochs = config.epochs
    if epochs is None and config.steps is None and config.minutes is None:
        epochs = _DEFAULT_EPOCHS
    counts = [] if config.steps is None else [config.steps]
    if epochs is not None:
        counts.append(max(1, round(epochs * steps_per_epoch)))
    seconds = None
    if config.minutes is not None:
        whole = config.minutes * 60
        seconds = max(whole - look_seconds, whole / 2)
    return Budget(min(counts, default=None), seconds)


class _Watch:
    """What happens beside learning: figures, checkpoints, looks at held-out text."""

    def __init__(self, run: TrainingRun, display: Display, budget: Budget) -> None:
        self._run, self._display, self._budget = run, display, budget
        self._averages = Averages()
        self._saved = self._validated = time.perf_counter()

    def __call__(self, result: StepResult) -> None:
        run, now = self._run, time.perf_counter()
        self._averages.add(result)
        self._display(training_line(run.state, self._averages, self._budget))
        if run.state.step % _RECORD_STEPS == 0:
            rate = run.learner.rate
            run.state.curve.append(train_record(run.state, self._averages, rate))
        if now - self._validated > run.config.validation_seconds:
            run.checkpoint()
            looked = run.validate()
            if looked is not None:
                run.report(validation_line(run.state.step, looked))
            self._validated = time.perf_counter()
        if now - self._saved > run.config.checkpoint_seconds:
            run.checkpoint()
            self._saved = time.perf_counter()


def run_identity(config: TrainConfig, draft_config: GlideConfig, target: str) -> dict[str, Any]:
    """What has to be the same for a run to go on.

    Args:
        target: `TrainTarget.identity`
    """
    settings = {name: getattr(config, name) for name in FIXED}
    return {**config_dict(draft_config), "target": target, **settings}
