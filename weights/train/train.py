"""Training a draft, from text to a folder that `glidecape serve --draft` takes."""

import json
from collections.abc import Callable, Collection, Sequence

import torch
from rich.console import Console

from server.errors import CheckpointError, ConfigError
from server.models.glide_config import GlideConfig, config_dict
from weights.checkpoint import read_json
from weights.train.batches import locate
from weights.train.checkpoint import FILE
from weights.train.config import TrainConfig, glimpsed_layers
from weights.train.feature_store import (
    FeatureKey,
    FeatureStore,
    Shard,
    plan_shards,
    read_key,
    within,
)
from weights.train.features import FeatureWriter, write_features
from weights.train.progress import feature_bar
from weights.train.run import RunData, TrainingRun, validation_line
from weights.train.samples import PromptIds, Sample, read_samples
from weights.train.target import TrainTarget
from weights.train.validate import Validation
from weights.train.vocab import draft_vocabulary
from weights.train.warm_start import draft_config

Report = Callable[[str], None]


def train(
    config: TrainConfig,
    target: TrainTarget,
    prompt_ids: PromptIds,
    stop_token_ids: Collection[int],
    console: Console,
) -> Validation:
    """Makes a draft, or goes on making it where a killed run was.

    Args:
        target: prepared for `config.glimpsed_layers`.
        prompt_ids: a user turn -> ids of the chat up to where the answer begins.
        stop_token_ids: those the draft can always propose.

    Returns:
        The last look at held-out text.

    Raises:
        StartupError: bad settings, text that can't be read, too little disk, a folder that holds
            something else. Before any work, but for what fails while writing.
    """

    def report(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    wanted = _draft_config(config, target)
    check_out(config, wanted)
    samples = read_samples(
        config.text, prompt_ids, target.config.vocab_size, config.max_sample_tokens
    )
    report(_described(samples))
    store, writer = _open_store(config, target, samples, stop_token_ids)
    shards = _fitting_shards(config, store, writer, samples, report)
    # Made before the long work: it refuses a checkpoint of another run.
    run = TrainingRun(config, wanted, target, _split(config, store, shards), report)
    missing = [shard for shard in shards if not store.has(shard)]
    if missing:
        with feature_bar(console, sum(shard.num_tokens for shard in missing)) as advance:
            write_features(writer, store, missing, advance)
    result = run.run(console)
    report(validation_line(run.state.step, result))
    return result


def check_out(config: TrainConfig, draft: GlideConfig) -> None:
    """Refuses to write over a draft that this run did not make.

    Raises:
        CheckpointError: names the folder and what differs.
    """
    path = config.out / "config.json"
    if not path.exists():
        return
    held, wanted = read_json(path), _as_json(config_dict(draft))
    differing = [name for name in wanted if held.get(name) != wanted[name]]
    if differing:
        raise CheckpointError(config.out, f"holds another draft: it differs in {differing[0]!r}")
    if not (config.work / FILE).exists():
        reason = f"holds a draft already, and {config.work} has no run to go on with"
        raise CheckpointError(config.out, reason)


def _draft_config(config: TrainConfig, target: TrainTarget) -> GlideConfig:
    size = config.draft_vocab_size
    return draft_config(
        target,
        glimpsed_layers(config, target.config),
        config.glimpse_hidden,
        config.max_delay,
        size if size < target.config.vocab_size else None,
    )


def _open_store(
    config: TrainConfig,
    target: TrainTarget,
    samples: Sequence[Sample],
    stop_token_ids: Collection[int],
) -> tuple[FeatureStore, FeatureWriter]:
    """A work folder keeps its vocabulary: text that is added later adds features, and changes none
    of those that are there."""
    folder, vocab_size = config.work / "features", target.config.vocab_size
    size = min(config.draft_vocab_size, vocab_size)
    held = read_key(folder)
    if held is not None and len(held.vocabulary) == size:
        vocabulary = torch.tensor(held.vocabulary)
    else:
        vocabulary = draft_vocabulary(samples, size, vocab_size, stop_token_ids)
    key = FeatureKey(
        target=target.identity,
        glimpse_layers=glimpsed_layers(config, target.config),
        glimpse_hidden=config.glimpse_hidden,
        top_k=config.top_k,
        dtype=config.feature_dtype,
        vocabulary=tuple(vocabulary.tolist()),
    )
    return FeatureStore(folder, key), FeatureWriter(target, key)


def _fitting_shards(
    config: TrainConfig,
    store: FeatureStore,
    writer: FeatureWriter,
    samples: Sequence[Sample],
    report: Report,
) -> list[Shard]:
    shape = writer.shape()
    chosen = within(samples, shape, config.feature_bytes)
    if len(chosen) < len(samples):
        report(f"{len(chosen):,} of {len(samples):,} samples fit into feature_bytes")
    shards = plan_shards(chosen)
    store.check_disk(shards, shape)
    return shards


def _split(config: TrainConfig, store: FeatureStore, shards: Sequence[Shard]) -> RunData:
    located = locate(shards)
    training = [at for at in located if not at.sample.held_out]
    if not training:
        shown = ", ".join(map(str, config.text))
        raise ConfigError("text", shown, f"{len(located)} samples are too few to learn from")
    return RunData(store, training, [at for at in located if at.sample.held_out])


def _described(samples: Sequence[Sample]) -> str:
    tokens = sum(sample.num_tokens for sample in samples)
    learnt = sum(sample.num_labels for sample in samples)
    return f"{len(samples):,} samples, {tokens:,} tokens, {learnt:,} of them learnt"


def _as_json(value: dict[str, object]) -> dict[str, object]:
    return json.loads(json.dumps(value))
