"""How much of the text there is time for: what is on disk already costs none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weights.train.features.store import FeatureShape, Shard, left_over_bytes, within


@dataclass(frozen=True, slots=True)
class TimedText:
    """The text of a run, and those of its features that are there."""

    shards: Sequence[Shard]
    shape: FeatureShape
    stored: Mapping[str, int]
    """As `stored_bytes` gives it."""

    @property
    def num_tokens(self) -> int:
        return _num_tokens(self.shards)

    @property
    def missing(self) -> list[Shard]:
        return [shard for shard in self.shards if shard.name not in self.stored]

    @property
    def num_done(self) -> int:
        """Tokens that the target has read."""
        return self.num_tokens - _num_tokens(self.missing)

    def share(self, tokens: float) -> float:
        """Share of the features' bytes, 0 to 1: those that are there, and of the others as many
        as go with so many tokens."""
        missing = self.missing
        if tokens >= _num_tokens(missing):
            return 1.0
        whole, lacking = self.shape.num_bytes(self.shards), self.shape.num_bytes(missing)
        return (whole - lacking * (1 - tokens / _num_tokens(missing))) / whole

    def limit(self, share: float) -> int | None:
        """Most bytes for `within`; None where everything is taken."""
        if share >= 1:
            return None
        most = round(share * self.shape.num_bytes(self.shards))
        return max(1, most + left_over_bytes(self.shards, self.stored))

    def tokens_to_do(self, share: float) -> int:
        """That the target has still to read."""
        chosen = within(self.shards, self.shape, self.limit(share), self.stored)
        return _num_tokens([shard for shard in chosen if shard.name not in self.stored])


def _num_tokens(shards: Sequence[Shard]) -> int:
    return sum(shard.num_tokens for shard in shards)
