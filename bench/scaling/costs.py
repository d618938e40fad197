"""What a simulated replica takes for prompts and answers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """How long one replica takes, and what it holds. The defaults are the default model's on two
    CPU cores (docs/performance.md, the first of the day's two runs beside the peers): its prompt of
    2048 tokens, and a line through its 1, 4 and 16 streams."""

    prefill_rate: float = 1138.0
    """Prompt tokens computed in a second, with nothing else to do."""
    step_ms: float = 3.4
    """Milliseconds of a decoding step for any number of sequences."""
    sequence_ms: float = 1.5
    """Milliseconds that each sequence adds to a step."""
    chunk_tokens: int = 256
    """Prompt tokens in one step (--max-num-batched-tokens)."""
    block_size: int = 16
    """Tokens in a block of the KV cache (--block-size)."""
    kv_tokens: int = 24_576
    """Size of the KV cache in tokens."""

    @property
    def num_blocks(self) -> int:
        return self.kv_tokens // self.block_size

    def prefill_seconds(self, num_tokens: int, num_others: int) -> float:
        """Until a prompt's first token, beside other sequences that share its steps."""
        num_steps = -(-num_tokens // self.chunk_tokens)
        return num_tokens / self.prefill_rate + num_steps * num_others * self.sequence_ms / 1000

    def decode_seconds(self, num_tokens: int, num_sequences: int) -> float:
        """Time of an answer behind its first token, in steps of so many sequences."""
        step = self.step_ms + num_sequences * self.sequence_ms
        return (num_tokens - 1) * step / 1000
