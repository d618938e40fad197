"""Prompt lookup, and recent answers, beside a GliDe draft."""

from collections.abc import Callable, Mapping, Sequence

import pytest

from server.engine.drafters.drafter import Drafter, EarlyStop
from server.engine.drafters.glide import GlideDrafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.outputs import RequestOutput, SourceFigures
from server.engine.schedule.plan import PlannedSequence
from server.engine.schedule.planner import SchedulerConfig
from server.engine.speculation.calibration import Calibration
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.recent import RecentOutputs
from server.engine.types import BlockId, PolicyName, RequestId
from server.kernels.tree import LayerCache
from tests.engine.answers import assert_equal
from tests.engine.drafting import ENGINES, glide, speculated
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


@pytest.mark.parametrize("policy", ["chain", "cape", "auto"])
@pytest.mark.parametrize("name", ENGINES)
def test_tokens_equal_plain_decoding(name: str, policy: PolicyName) -> None:
    """The second round finds the first one's answers."""
    lookup = Noting(recent=RecentOutputs(4096))
    engine = TinyEngine(ENGINES[name], glide, lookup=lookup)
    for _ in range(2):
        assert_equal(engine.run(speculated(policy)))
    assert lookup.num_found > 0
    assert engine.scheduler.pool.num_free == engine.scheduler.config.num_blocks


def test_the_draft_knows_what_was_committed_by_lookups() -> None:
    """Its KV of such tokens was never drafted. Wherever it is asked, alone or beside lookups, it
    says the same."""
    alone: Said = {}
    beside: Said = {}
    for said, lookup in ((alone, None), (beside, NgramDrafter())):
        engine = TinyEngine(CONFIG, listening(said), lookup=lookup)
        assert engine.runner.speculator is not None
        # The random draft is taken at its word, as lookups are; else it would always be preferred.
        engine.runner.speculator.auto.calibration = Calibration(trunk_power=1.0)
        engine.run(speculated("auto"))
    both = alone.keys() & beside.keys()
    assert len(both) > 50
    assert len(beside) < len(alone), "no lookup took a draft's place"
    for key in both:
        depth = min(len(alone[key].candidates), len(beside[key].candidates))
        assert alone[key].candidates[:depth] == beside[key].candidates[:depth]


@pytest.mark.parametrize("policy", ["chain", "cape", "auto"])
def test_a_request_that_is_asked_again_is_answered_by_what_was_said(policy: PolicyName) -> None:
    """Greedy answers: all but the first tokens of the second round are in the first round's."""
    lookup = NgramDrafter(recent=RecentOutputs(4096))
    engine = TinyEngine(CONFIG, glide, lookup=lookup)
    requests = [r for r in speculated(policy) if r.params.greedy and not r.params.has_penalties]
    first = _figures(engine.run(requests))
    again = _figures(engine.run(requests))
    assert again.accepted > 2 * max(first.accepted, 1)
    assert again.accepted > 0.9 * again.proposed


def _figures(outputs: Mapping[RequestId, Sequence[RequestOutput]]) -> SourceFigures:
    """Figures of the source `recent`."""
    total = SourceFigures()
    for of_request in outputs.values():
        summary = of_request[-1].speculation
        if summary is not None and "recent" in summary.by_source:
            more = summary.by_source["recent"]
            total = SourceFigures(total.proposed + more.proposed, total.accepted + more.accepted)
    return total


def test_beams_show_the_draft_as_it_is() -> None:
    lookup = Noting()
    TinyEngine(CONFIG, glide, lookup=lookup).run(speculated("beam"))
    assert lookup.num_found == 0


def test_a_request_that_is_over_is_forgotten() -> None:
    """Under its id comes another text: nothing of the old one must be found."""
    lookup = NgramDrafter()
    (request,) = speculated("auto", ("r0",))
    TinyEngine(CONFIG, glide, lookup=lookup).run([request])
    old = request.prompt_token_ids
    fresh = [next(token for token in range(61) if token not in old[:1]), old[0]]
    sequence = PlannedSequence(request, fresh, 1, 1, [BlockId(0)], 32, 8)
    assert lookup.draft([sequence], [4], EarlyStop.never(1)) == [Proposal((), ())]
