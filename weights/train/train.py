"""Training a draft, from text to a folder that `glidecape serve --draft` takes."""

import json
import math
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from typing import NamedTuple

from rich.console import Console

from server.errors import CheckpointError, ConfigError
from server.models.glide_config import GlideConfig, config_dict
from server.report import Report
from weights.checkpoint import read_json
from weights.train.config import TrainConfig, vocabulary_sizes
from weights.train.features.recorded import RECORDED, adopt
from weights.train.features.store import (
    FOLDER,
    FeatureKey,
    FeatureStore,
    Shard,
    stored_bytes,
    within,
)
from weights.train.features.target import TrainTarget
from weights.train.features.writer import FeatureWriter, write_features
from weights.train.fit.batches import Located, locate
from weights.train.fit.checkpoint import RunState, check_checkpoint
from weights.train.fit.figures import validation_line
from weights.train.fit.run import RunData, TrainingRun, run_identity
from weights.train.fit.validate import Validation
from weights.train.fit.warm_start import draft_config
from weights.train.out_folder import holds_draft, is_own_draft
from weights.train.progress import feature_bar, reporter
from weights.train.shards import read_shards
from weights.train.text.samples import PromptIds, Sample


class Trained(NamedTuple):
    """What came of a run."""

    validation: Validation | None
    """The last look at held-out text; None where nothing is held out."""
    state: RunState
    data: RunData


def train(
    config: TrainConfig,
    target: TrainTarget,
    prompt_ids: PromptIds,
    stop_token_ids: Collection[int],
    console: Console,
) -> Trained:
    """Makes a draft, or goes on making it where a killed run was.

    Args, Raises: as `prepare`.
    """
    data = prepare(config, target, prompt_ids, stop_token_ids, console)
    return learn(config, target, data, console)


def prepare(
    config: TrainConfig,
    target: TrainTarget,
    prompt_ids: PromptIds,
    stop_token_ids: Collection[int],
    console: Console,
    deadline: float = math.inf,
    tick: Callable[[], None] = lambda: None,
) -> RunData:
    """The target's forward over the text, as far as it is not on disk.

    Args:
        target: as `prepare_target` gives it.
        prompt_ids: a user turn -> ids of the chat up to where the answer begins.
        stop_token_ids: those the draft can always propose.
        deadline: monotonic seconds; text whose features are not there by then is left out.
        tick: called each time that some features are on disk.

    Raises:
        StartupError: bad settings, text that can't be read, too little disk, a folder that holds
            something else. Before any work, but for what fails while writing.
    """
    report = reporter(console)
    wanted = _draft_config(config, target)
    check_out(config, wanted)
    text = read_shards(config, prompt_ids, target.config.vocab_size, stop_token_ids)
    report(_described(text))
    store, writer = _open_store(config, target)
    check_checkpoint(config.work, run_identity(config, wanted, store.key.target))
    shards = _fitting_shards(config, store, writer, text, report)
    # As the check before: to refuse before the long work.
    _split(config, store, shards, stop_token_ids)
    missing = sum(shard.num_tokens for shard in shards if not store.has(shard))
    if missing:
        # By their digests: what is left out at the deadline is of all files.
        ordered = sorted(shards, key=lambda shard: shard.name)
        with feature_bar(console, missing) as advance:

            def both(tokens: int) -> None:
                advance(tokens)
                tick()

            write_features(writer, store, ordered, both, deadline)
    return _split(config, store, _complete(store, shards, report), stop_token_ids)


def learn(config: TrainConfig, target: TrainTarget, data: RunData, console: Console) -> Trained:
    """Trains on what `prepare` gave, and writes the draft."""
    report = reporter(console)
    if not data.held_out:
        report("no figures: nothing is held out, the text has too few different prompts")
    run = TrainingRun(config, _draft_config(config, target), target, data, report)
    result = run.run(console)
    if result is not None:
        report(validation_line(run.state.step, result))
    return Trained(result, run.state, data)


def check_out(config: TrainConfig, draft: GlideConfig) -> None:
    """Refuses to write over a draft that this run did not make.

    Raises:
        CheckpointError: names the folder and what differs.
    """
    if not holds_draft(config.out):
        return
    path = config.out / "config.json"
    held, wanted = read_json(path) if path.exists() else {}, _as_json(config_dict(draft))
    differing = [name for name in wanted if held and held.get(name) != wanted[name]]
    if differing:
        raise CheckpointError(config.out, f"holds another draft: it differs in {differing[0]!r}")
    if not is_own_draft(config.out, config.work):
        reason = f"holds a draft already, which the run in {config.work} has not made"
        raise CheckpointError(config.out, reason)


def _draft_config(config: TrainConfig, target: TrainTarget) -> GlideConfig:
    return draft_config(
        target.config,
        target.glimpse_layers,
        config.glimpse_hidden,
        config.max_delay,
        **vocabulary_sizes(config, target.config.vocab_size),
        copy_hint=config.copy_hint,
    )


def take_recorded(
    config: TrainConfig,
    target: TrainTarget,
    prompt_ids: PromptIds,
    stop_token_ids: Collection[int],
    report: Report,
    tick: Callable[[], None],
) -> None:
    """Takes over the features that were recorded while the text was written, so that the target
    need not read it again.

    Args, Raises: as `prepare`.
    """
    if not (config.work / RECORDED).exists():
        return
    shards = read_shards(config, prompt_ids, target.config.vocab_size, stop_token_ids)
    num_tokens = adopt(config.work, *_open_store(config, target), shards, tick)
    if num_tokens:
        report(f"features of {num_tokens:,} tokens are there since the text was written")


def _open_store(config: TrainConfig, target: TrainTarget) -> tuple[FeatureStore, FeatureWriter]:
    key = feature_key(config, target)
    return FeatureStore(config.work / FOLDER, key), FeatureWriter(target, key)


def feature_key(config: TrainConfig, target: TrainTarget) -> FeatureKey:
    """What a run's features depend on."""
    return FeatureKey(
        target=target.identity,
        glimpse_layers=target.glimpse_layers,
        glimpse_hidden=config.glimpse_hidden,
        top_k=config.top_k,
        dtype=config.feature_dtype,
        form=target.form,
    )


def _fitting_shards(
    config: TrainConfig,
    store: FeatureStore,
    writer: FeatureWriter,
    text: Sequence[Shard],
    report: Report,
) -> list[Shard]:
    shape = writer.shape()
    shards = within(text, shape, config.feature_bytes, stored_bytes(store.folder))
    count, whole = len(_of_text(shards)), len(_of_text(text))
    if count < whole:
        report(f"{count:,} of {whole:,} samples fit into feature_bytes")
    store.check_disk(shards, shape)
    return shards


def _complete(store: FeatureStore, shards: Sequence[Shard], report: Report) -> list[Shard]:
    there = [shard for shard in shards if store.has(shard)]
    if len(there) < len(shards):
        whole, used = (sum(shard.num_tokens for shard in some) for some in (shards, there))
        report(
            f"the time for the target's forward is up: {whole - used:,} of {whole:,} tokens of "
            "text are left out"
        )
    return there


def _split(
    config: TrainConfig,
    store: FeatureStore,
    shards: Sequence[Shard],
    stop_token_ids: Collection[int],
) -> RunData:
    located = locate(shards)
    training = [at for at in located if not at.sample.held_out]
    if all(at.sample.is_random for at in training):
        shown, count = ", ".join(map(str, config.text)), len(_of_text(shards))
        raise ConfigError("text", shown, f"{count} samples are too few to learn from")
    held_out = _held_out(located, config.validation_tokens)
    return RunData(store, training, held_out, frozenset(stop_token_ids))


def _held_out(located: Sequence[Located], most_tokens: int) -> list[Located]:
    """Chooses up to so many held-out tokens. Samples come in the order of their digests, which
    spreads them over all text.
    """
    chosen, tokens = list[Located](), 0
    for at in sorted((at for at in located if at.sample.held_out), key=lambda at: at.sample.digest):
        if tokens < most_tokens:
            chosen.append(at)
            tokens += at.sample.num_tokens
    return chosen


def _described(text: Sequence[Shard]) -> str:
    samples = _of_text(text)
    tokens = sum(sample.num_tokens for sample in samples)
    learnt = sum(sample.num_labels for sample in samples)
    random = sum(s.num_labels for shard in text for s in shard.samples) - learnt
    line = f"{len(samples):,} samples, {tokens:,} tokens, {learnt:,} of them learnt"
    return f"{line}; {random:,} random ones beside them" if random else line


def _of_text(shards: Sequence[Shard]) -> list[Sample]:
    """All but those of random tokens."""
    return [s for s in chain.from_iterable(shard.samples for shard in shards) if not s.is_random]


def _as_json(value: dict[str, object]) -> dict[str, object]:
    return json.loads(json.dumps(value))
