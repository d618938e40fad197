"""Whether drafting pays and when a chain ends, on cost curves small enough to work out by hand."""

import pytest

from server.engine.speculation.costs import CostCurve, LiveCosts, StepCosts
from server.engine.speculation.prospect import Prospects

FLAT = CostCurve((1, 64), (1.0, 1.0))
LINEAR = CostCurve((1, 2), (1.0, 2.0))
REFRESH = 16
KEPT = 64


def drafting_at(seconds: float) -> CostCurve:
    return CostCurve((1, 2), (seconds, seconds))


def prospects(verify: CostCurve, draft: CostCurve, *chain: float) -> Prospects:
    """After chains of these survivals alone; at first each token's chance is 0.7."""
    found = Prospects(LiveCosts(StepCosts(verify, draft)), max_depth=8)
    for _ in range(KEPT if chain else 0):
        found.observe(chain)
    return found


def best_rate(draft_seconds: float, chain: tuple[float, ...]) -> float:
    """The best rate over all lengths that a chain may be cut to, where rows are free."""
    return max((1 + sum(chain[:n])) / (1 + n * draft_seconds) for n in range(len(chain) + 1))


@pytest.mark.parametrize("draft_seconds", [0.1, 0.3, 0.6])
def test_the_rule_ends_chains_at_their_best_length(draft_seconds: float) -> None:
    """Rows are free, the chance of each token is 0.7. Drafting at 0.3: 1.7 / 1.3 = 1.31, 2.19 / 1.6
    = 1.369, 2.533 / 1.9 = 1.333, so two tokens; at 0.6 one, at 0.1 five."""
    chain = tuple(0.7**depth for depth in range(1, 9))
    prospect = prospects(FLAT, drafting_at(draft_seconds))(1, 1)
    length = next((n for n, s in enumerate(chain, start=1) if s < prospect.least_survival), 8)
    reached = (1 + sum(chain[:length])) / (1 + length * draft_seconds)
    assert prospect.pays
    assert reached == pytest.approx(best_rate(draft_seconds, chain))


def test_the_limit_is_the_rate_times_the_cost_of_going_on() -> None:
    """Chains of survivals 0.9, 0.1; a token drafted costs 0.2, rows are free. Stopped behind the
    second: (1 + 1) / 1.4 = 1.43, never above the 1.9 / 1.2 = 1.58 of one. Mean chance: 1 / 1.9."""
    found = prospects(FLAT, drafting_at(0.2), 0.9, 0.1)(1, 1)
    assert found.pays
    assert found.least_survival == pytest.approx(2.0 / 1.4 * 0.2 / (1.0 / 1.9))


def test_unlikely_chains_do_not_pay() -> None:
    assert not prospects(FLAT, drafting_at(0.3), 0.2, 0.04)(1, 1).pays
    assert prospects(FLAT, drafting_at(0.3), 0.4, 0.1)(1, 1).pays


def test_rows_that_cost_as_much_as_a_step_never_pay() -> None:
    assert not prospects(LINEAR, drafting_at(0.0), 0.99, 0.98)(1, 1).pays


def test_only_chains_worth_verifying_count() -> None:
    """A row more costs half a step. Half of the chains are sure, the other half hopeless: those are
    drafted in vain, and not verified. (1 + 0.5) / (1 + 0.25 + 0.1) > 1, though a mean chance of 0.5
    would not pay for its row."""
    half = CostCurve((1, 2), (1.0, 1.5))
    found = Prospects(LiveCosts(StepCosts(half, drafting_at(0.1))), max_depth=1)
    for _ in range(KEPT):
        found.observe((0.5,))
    assert not found(1, 1).pays
    for _ in range(KEPT // 2):
        found.observe((1.0,))
        found.observe((0.0,))
    assert found(1, 1).pays


def test_prompts_in_the_step_count_as_rows() -> None:
    """30 rows of prompts beside one decoding sequence: past 32 rows a step gets dear."""
    full = CostCurve((1, 32, 33), (1.0, 1.0, 2.0))
    found = prospects(full, drafting_at(0.1), 0.9, 0.8)
    assert found(1, 1).pays
    assert not found(1, 32).pays


def test_judged_anew_when_the_chains_have_changed() -> None:
    found = prospects(FLAT, drafting_at(0.3), 0.05)
    assert not found(1, 1).pays
    for _ in range(KEPT):
        found.observe((0.99, 0.98, 0.97))
    assert found(1, 1).pays


def test_an_empty_chain_says_nothing() -> None:
    found = prospects(FLAT, drafting_at(0.3))
    before = found(1, 1)
    for _ in range(KEPT):
        found.observe(())
    assert found(1, 1) == before
