"""How much of the machine the engine gets: KV pool, longest sequence, size of a step."""

from server.config import ModelSettings
from server.engine.schedule.planner import SchedulerConfig
from server.errors import ConfigError
from server.models.config import ModelConfig

_SHORT_CONTEXT = 256
"""Tokens below which most chats get no answer: a template alone may have fifty."""
_SEQUENCES_BY_DEFAULT = 3
"""Full-length sequences the KV pool holds on a CPU where nobody says how large it shall be."""


def scheduler_config(
    settings: ModelSettings, config: ModelConfig, token_bytes: int, free: int, on_cpu: bool
) -> SchedulerConfig:
    """Sizes the KV pool and with it the longest sequence.

    Args:
        token_bytes: KV of one token, the target's and the draft's.
        free: bytes left after the models are loaded; on a GPU those of the KV cache.

    Raises:
        ConfigError: the pool can't hold one sequence of the asked max_model_len.
    """
    wanted_len = settings.max_model_len or config.max_position
    if wanted_len > config.max_position:
        reason = f"the model was trained for {config.max_position} positions"
        raise ConfigError("max_model_len", wanted_len, reason)
    block_bytes = token_bytes * settings.block_size
    blocks_per_sequence = -(-wanted_len // settings.block_size)
    if settings.kv_memory is not None:
        num_blocks = settings.kv_memory // block_bytes
    else:
        num_blocks = free // block_bytes
        if on_cpu:  # memory that a user's other programs want too
            num_blocks = int(free * settings.kv_memory_fraction) // block_bytes
            num_blocks = min(num_blocks, _SEQUENCES_BY_DEFAULT * blocks_per_sequence)
    held = num_blocks * settings.block_size
    if held < min(wanted_len, 2 * settings.block_size) or (settings.max_model_len or 0) > held:
        reason = f"the KV cache holds {held} tokens, fewer than a sequence of {wanted_len} needs"
        if settings.kv_memory is None and not on_cpu:
            raise ConfigError("gpu_memory_utilization", settings.gpu_memory_utilization, reason)
        raise ConfigError("kv_memory", settings.kv_memory or "auto", reason)
    return SchedulerConfig(
        num_blocks=num_blocks,
        block_size=settings.block_size,
        max_model_len=min(wanted_len, held),
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        prefix_caching=settings.prefix_caching != "off",
        eos_token_ids=frozenset(config.eos_token_ids),
    )


def short_context(limits: SchedulerConfig, config: ModelConfig) -> str | None:
    """A warning where the KV cache leaves too little of the model's context to be of use."""
    if limits.max_model_len >= min(_SHORT_CONTEXT, config.max_position):
        return None
    return (
        f"warning: a prompt and its answer have {limits.max_model_len} tokens together, too few "
        f"for most; the model was trained for {config.max_position:,} (--kv-memory, "
        "--max-model-len)"
    )


def check_kv_memory(settings: ModelSettings, free: int) -> None:
    """
    Args:
        free: bytes left after the models are loaded.

    Raises:
        ConfigError: more is asked for than there is.
    """
    wanted = settings.kv_memory
    if wanted is not None and wanted > free:
        reason = f"{wanted / 2**30:,.1f} GiB are asked for, {free / 2**30:,.1f} GiB are free"
        raise ConfigError("kv_memory", wanted, reason)


def describe_pool(limits: SchedulerConfig, token_bytes: int) -> str:
    """For people."""
    tokens = limits.num_blocks * limits.block_size
    mebibytes = tokens * token_bytes / 2**20
    full = tokens / limits.max_model_len
    return (
        f"KV cache: {mebibytes:,.0f} MiB = {tokens:,} tokens = {full:.1f} sequences of "
        f"{limits.max_model_len:,} tokens"
    )
