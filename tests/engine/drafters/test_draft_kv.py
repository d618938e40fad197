"""A draft's own KV is complete wherever it is read, whatever happened before."""

from dataclasses import replace

import pytest

from server.engine.types import PolicyName, Request, RequestId, SpeculationParams
from tests.engine.answers import alone
from tests.engine.drafting import speculated
from tests.engine.step.host.test_lookup_beside_draft import Said, listening
from tests.engine.tiny import CONFIG, TinyEngine, tokens


def continued(request: Request, num_tokens: int) -> Request:
    """The request's prompt and the beginning of its answer, as a prompt of its own."""
    answer = tokens(alone()[str(request.request_id)])[:num_tokens]
    prompt = (*request.prompt_token_ids, *answer)
    return replace(request, request_id=RequestId("continued"), prompt_token_ids=prompt)


@pytest.mark.parametrize("before", ["off", "chain", "auto"])
@pytest.mark.parametrize("num_tokens", [1, 7, 20, 33])
def test_what_is_found_in_the_prefix_cache_has_draft_kv(
    before: PolicyName, num_tokens: int
) -> None:
    """Another request finds blocks that were filled by plain steps, or by speculation; the draft
    says what it says where it has read everything itself."""
    (request,) = speculated("chain", ("r0",))
    follower = continued(request, num_tokens)
    fresh: Said = {}
    TinyEngine(replace(CONFIG, prefix_caching=False), listening(fresh)).run([follower])
    said: Said = {}
    engine = TinyEngine(CONFIG, listening(said))
    engine.run([replace(request, speculation=SpeculationParams(policy=before))])
    said.clear()
    (last,) = (outputs[-1] for outputs in engine.run([follower]).values())
    assert last.num_cached_tokens >= CONFIG.block_size
    assert said
    assert {key: p.candidates for key, p in said.items()} == {
        key: p.candidates for key, p in fresh.items()
    }


def test_drafting_after_plain_steps_says_the_same() -> None:
    """Sixteen requests that decode plainly for a while, then with a draft: a request's policy does
    not change, so it is the auto policy's choice here, forced."""
    said: Said = {}
    engine = TinyEngine(CONFIG, listening(said))
    speculator = engine.runner.speculator
    assert speculator is not None
    plan_draft, asked = speculator.auto.plan_draft, list[int]()

    def now_and_then(num_sequences: int, num_rows: int) -> object:
        asked.append(num_sequences)
        plan = plan_draft(num_sequences, num_rows)
        return plan if len(asked) % 5 == 0 else plan._replace(depth=0)

    speculator.auto.plan_draft = now_and_then  # pyright: ignore[reportAttributeAccessIssue]
    engine.run(speculated("auto"))
    always: Said = {}
    TinyEngine(CONFIG, listening(always)).run(speculated("auto"))
    both = said.keys() & always.keys()
    assert len(both) > 10
    for key in both:
        depth = min(len(said[key].candidates), len(always[key].candidates))
        assert said[key].candidates[:depth] == always[key].candidates[:depth]
