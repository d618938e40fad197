"""Prompt lookup beside a GliDe draft, under the auto policy."""

from collections.abc import Callable, Sequence

import pytest

from server.engine.drafters.drafter import Drafter, EarlyStop
from server.engine.drafters.glide import GlideDrafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.schedule.plan import PlannedSequence
from server.engine.schedule.planner import SchedulerConfig
from server.engine.speculation.proposal import Proposal
from server.engine.types import BlockId, PolicyName
from server.kernels.tree import LayerCache
from tests.engine.step.host.test_exactness import ENGINES, glide, speculated
from tests.engine.test_equality import assert_equal
from tests.engine.tiny import CONFIG, TinyEngine

Said = dict[tuple[str, int], Proposal]
"""What was proposed, by request and position."""


class Noting(NgramDrafter):
    """Prompt lookup that counts what it found."""

    num_found = 0

    def draft(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], stop: EarlyStop
    ) -> list[Proposal]:
        proposals = super().draft(sequences, depths, stop)
        self.num_found += sum(1 for proposal in proposals if proposal.candidates)
        return proposals


def listening(said: Said) -> Callable[[SchedulerConfig, list[LayerCache]], Drafter]:
    """A GliDe drafter that notes what it says."""

    def make(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
        drafter = glide(config, caches)
        assert isinstance(drafter, GlideDrafter)
        draft = drafter.draft

        def noted(
            sequences: Sequence[PlannedSequence], depths: Sequence[int], stop: EarlyStop
        ) -> list[Proposal]:
            proposals = draft(sequences, depths, EarlyStop.never(len(depths)))
            for sequence, proposal in zip(sequences, proposals, strict=True):
                key = str(sequence.request.request_id), len(sequence.token_ids)
                said[key] = proposal
            return proposals

        drafter.draft = noted
        return drafter

    return make


@pytest.mark.parametrize("name", ENGINES)
def test_tokens_equal_plain_decoding(name: str) -> None:
    lookup = Noting()
    engine = TinyEngine(ENGINES[name], glide, lookup=lookup)
    for _ in range(2):
        got = engine.run(speculated("auto"))
        assert_equal({str(key): value for key, value in got.items()})
    assert lookup.num_found > 0
    assert engine.scheduler.pool.num_free == engine.scheduler.config.num_blocks


def test_the_draft_knows_what_was_committed_by_lookups() -> None:
    """Its KV of such tokens was never drafted. Wherever it is asked, alone or beside lookups, it
    says the same."""
    alone: Said = {}
    TinyEngine(CONFIG, listening(alone)).run(speculated("auto"))
    beside: Said = {}
    TinyEngine(CONFIG, listening(beside), lookup=NgramDrafter()).run(speculated("auto"))
    both = alone.keys() & beside.keys()
    assert len(both) > 50
    assert len(beside) < len(alone), "no lookup took a draft's place"
    for key in both:
        depth = min(len(alone[key].candidates), len(beside[key].candidates))
        assert alone[key].candidates[:depth] == beside[key].candidates[:depth]


@pytest.mark.parametrize("policy", ["chain", "cape", "beam"])
def test_other_policies_show_the_draft_as_it_is(policy: PolicyName) -> None:
    lookup = Noting()
    TinyEngine(CONFIG, glide, lookup=lookup).run(speculated(policy))
    assert lookup.num_found == 0


def test_a_request_that_is_over_is_forgotten() -> None:
    """Under its id comes another text: nothing of the old one must be found."""
    lookup = NgramDrafter()
    (request,) = speculated("auto", ("r0",))
    TinyEngine(CONFIG, glide, lookup=lookup).run([request])
    old = request.prompt_token_ids
    fresh = [next(token for token in range(61) if token not in old[:1]), old[0]]
    sequence = PlannedSequence(request, fresh, 1, 1, [BlockId(0)], 32, 8)
    assert lookup.draft([sequence], [4], EarlyStop.never(1)) == [Proposal((), (), "lookup")]
